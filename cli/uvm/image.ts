import { join } from "node:path";
import { readUvm, type Uvm, uvmMeasurement } from "@sealpod/image";
import { MEASUREMENT_SIZE } from "@sealpod/snp";
import { parseBytes } from "../attest/measure-input.ts";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { pathOf, ROOT } from "../workspace.ts";

/** Where images are unless the user names another place. */
const DEFAULT_DIRECTORY = join(ROOT, "build", "uvm");

/** Directory of the image that a command line names, or does not. */
export function imageDirectory(path: string | undefined, context: CliContext): string {
  return path === undefined ? DEFAULT_DIRECTORY : pathOf(path, context);
}

/** @throws {ImageError} ERR_IMAGE_UVM */
export async function openImage(path: string | undefined, context: CliContext): Promise<Uvm> {
  return readUvm(imageDirectory(path, context));
}

/**
 * The launch measurement that an endorsement is about: what the command line gives, or that of an emulated start.
 * @throws {CliError} ERR_CLI_USAGE for an image whose measurement depends on more than the image
 */
export async function measurementOf(uvm: Uvm, given: string | undefined): Promise<Uint8Array> {
  if (given !== undefined) return parseBytes("--measurement", given, MEASUREMENT_SIZE);
  if (uvm.manifest.target === "emulated") return uvmMeasurement(uvm);
  throw new CliError("ERR_CLI_USAGE", `--measurement is missing: an image for ${uvm.manifest.target} is measured with its firmware and processors`, {
    hint: "Predict it: sealpod attest measure --uvm DIR --ovmf OVMF.fd --vcpus 1 --vcpu-type EPYC-Milan",
  });
}

/** Mebibytes of a number of bytes, for people. */
export function mebibytes(bytes: number): string {
  return `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
}
