/** Version of the shim: that of its package. */
export const SHIM_VERSION = "0.1.0";

/** The runtime's name as containerd has it. */
const RUNTIME_NAME = "io.containerd.kata-cc.v2";

/**
 * Kinds of mounts that containerd 2 need not make itself, as it does for runtimes that do not say this (specs/runtime.md 5.2): what is under a
 * container is made of the image's layers, and not of what containerd mounts.
 */
const ALLOWED_MOUNTS = { key: "containerd.io/runtime-allow-mounts", value: "mkdir/*,format/*,erofs" };

/** What `-info` prints: a containerd.runtime RuntimeInfo {name 1, version 2 {version 1}, annotations 5}. */
export function runtimeInfo(): Uint8Array {
  const annotation = [...text(1, ALLOWED_MOUNTS.key), ...text(2, ALLOWED_MOUNTS.value)];
  return Uint8Array.from([...text(1, RUNTIME_NAME), ...field(2, text(1, SHIM_VERSION)), ...field(5, annotation)]);
}

function text(number: number, value: string): readonly number[] {
  return field(number, [...Buffer.from(value)]);
}

/** A field of bytes in protobuf's encoding; a message of this one's size does without a description of its own. Lengths are below 128. */
function field(number: number, bytes: readonly number[]): readonly number[] {
  return [(number << 3) | 2, bytes.length, ...bytes];
}
