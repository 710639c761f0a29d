export { execInPod, findPod, listPods, OutputLog, PodClient, serveControl } from "./control.ts";
export type { ExecResult, PodControl, PodRecord } from "./control.ts";
export { POD_ERRORS, PodError } from "./errors.ts";
export type { PodErrorCode } from "./errors.ts";
export { parsePodManifest, POLICY_ANNOTATION } from "./manifest.ts";
export type { PodManifest } from "./manifest.ts";
export { PAUSE_IMAGE, preparePod, startPod } from "./pod.ts";
export type { PodContainerHandle, PodOptions, PreparedPod, RunningPod } from "./pod.ts";
