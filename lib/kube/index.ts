export * from "./annotation.ts";
export * from "./errors.ts";
export { podTemplatePath } from "./kinds.ts";
export { DEFAULT_MANIFEST_LIMITS, findTooDeep, type KubeObject, type Manifest, type ManifestLimits, parseManifest, type SourceFile } from "./manifest.ts";
export * from "./model.ts";
export { formatPosition, formatProblem, LineIndex, type Position, type Problem, type ProblemKind } from "./problem.ts";
export { readManifest, readResources, type ReadOptions, type ResourceList } from "./resources.ts";
export * from "./yaml-node.ts";
