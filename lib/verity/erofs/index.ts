export { buildErofsLayer } from "./build.ts";
export type { ErofsLayerInfo } from "./build.ts";
export type { UndeclaredDirectories } from "./layer-tree.ts";
export type { ErofsLimits } from "./limits.ts";
export { patchableSink } from "./sink.ts";
export type { PatchableSink } from "./sink.ts";
export { openErofsLayer, readErofs } from "./reader.ts";
export type { VerifiedErofsLayer } from "./reader.ts";
