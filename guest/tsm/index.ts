export * from "./errors.ts";
export * from "./fetch-report.ts";
