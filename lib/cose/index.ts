export * from "./cbor.ts";
export * from "./did-x509.ts";
export * from "./errors.ts";
export * from "./microsoft-uvm-trust.ts";
export * from "./sign1.ts";
export * from "./uvm-endorsement.ts";
