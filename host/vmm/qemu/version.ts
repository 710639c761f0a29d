import { Child } from "../child.ts";
import { VmmError } from "../errors.ts";

/** Version of QEMU. */
export interface QemuVersion {
  readonly major: number;
  readonly minor: number;
  /** All that QEMU says of it in its first line: builds of one version differ. */
  readonly text: string;
}

/** Longest line that is taken for a version. */
const MAX_TEXT = 200;

/**
 * Parses what `qemu-system-x86_64 --version` prints.
 * @throws {VmmError} ERR_VMM_UNAVAILABLE
 */
export function parseQemuVersion(output: string): QemuVersion {
  const text = (output.split("\n")[0] ?? "").slice(0, MAX_TEXT);
  const match = /\bversion ([0-9]{1,4})\.([0-9]{1,4})/.exec(text);
  if (match === null) throw new VmmError("ERR_VMM_UNAVAILABLE", `QEMU's version: found ${JSON.stringify(text)}, expected "… version 7.2 …"`);
  return { major: Number(match[1]), minor: Number(match[2]), text };
}

/** True for that version and later ones. */
export function isAtLeast(version: QemuVersion, least: Pick<QemuVersion, "major" | "minor">): boolean {
  return version.major > least.major || (version.major === least.major && version.minor >= least.minor);
}

/**
 * Asks a QEMU for its version.
 * @throws {VmmError} ERR_VMM_UNAVAILABLE
 */
export async function qemuVersion(program: string, directories: readonly string[]): Promise<QemuVersion> {
  const child = new Child({ program, args: ["--version"], directories });
  await child.exited;
  return parseQemuVersion(child.tail);
}
