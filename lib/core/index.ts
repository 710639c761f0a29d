export * from "./abort.ts";
export * from "./bytes.ts";
export * from "./canonical-json.ts";
export * from "./errors.ts";
export * from "./json.ts";
export * from "./ports.ts";
export * from "./reader.ts";
export * from "./uuid.ts";
