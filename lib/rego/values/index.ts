export * from "./compare.ts";
export * from "./format.ts";
export * from "./go-quote.ts";
export * from "./json.ts";
export * from "./number.ts";
export * from "./patch.ts";
export * from "./value.ts";
