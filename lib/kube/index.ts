export * from "./annotation.ts";
export * from "./errors.ts";
export * from "./manifest.ts";
export * from "./model.ts";
export * from "./problem.ts";
export { podTemplatePath, readResources, type ReadOptions, type ResourceList } from "./resources.ts";
export * from "./yaml-node.ts";
