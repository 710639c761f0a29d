export * from "./context.ts";
export * from "./errors.ts";
export * from "./names.ts";
export * from "./plan.ts";
export * from "./pod.ts";
export * from "./quantity.ts";
export * from "./runtime-spec.ts";
export * from "./write.ts";
