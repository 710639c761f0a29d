import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { silentLogger } from "@sealpod/core";
import { systemClock, systemRandom } from "@sealpod/io";
import { SecurityProcessor, servePsp, type PspServer } from "@sealpod/psp";
import { LAUNCHER_NAME, launcherText } from "../../host/shim/launcher.ts";
import type { Handler } from "./test-support.ts";

/** The shim of this checkout in a world: its launcher, its configurations, the emulated processor, policies. */

const ROOT = resolve(import.meta.dirname, "../..");
const BUNDLE = join(ROOT, "build/shim.mjs");
const AGENT = join(ROOT, "build/agent.mjs");
const UVM = join(ROOT, "build/uvm");

/** Why there is no shim here, or undefined. */
export const noShim: string | undefined = [BUNDLE, AGENT].some((path) => !existsSync(path))
  ? "needs build/shim.mjs and build/agent.mjs: npm run bundle"
  : undefined;

/** Keys of the shim's configuration by table, in the place of the tests' own or beside them. */
export type ShimSettings = Readonly<Record<string, Readonly<Record<string, string | number | boolean | readonly string[]>>>>;

/** A handler whose pods are processes, or machines. */
export function shimHandler(isolation: "process" | "vm", settings: ShimSettings = {}): Handler {
  const tables = {
    hypervisor: { isolation, uvm: UVM, agent: AGENT, ...settings["hypervisor"] },
    runtime: { log_level: "debug", ...settings["runtime"] },
    ...(settings["processor"] === undefined ? {} : { processor: settings["processor"] }),
  };
  const lines = Object.entries(tables).flatMap(([table, keys]) => [
    `[${table}]`,
    ...Object.entries(keys).map(([key, value]) => `${key} = ${JSON.stringify(value)}`),
  ]);
  return { config: `${lines.join("\n")}\n` };
}

/** Writes the launcher into a directory for containerd's PATH. */
export async function writeLauncher(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  const text = launcherText({ node: process.execPath, shim: BUNDLE, config: "/etc/sealpod/shim.toml" });
  await writeFile(join(directory, LAUNCHER_NAME), text, { mode: 0o755 });
}

/** Starts the emulated processor of a world at the place where its shims look for it. */
export async function startProcessor(world: string): Promise<PspServer> {
  const processor = await SecurityProcessor.open(join(world, "keys"), { clock: systemClock, random: systemRandom });
  await mkdir(join(world, "run/sealpod"), { recursive: true });
  return servePsp({ processor, socketPath: join(world, "run/sealpod/psp.sock"), guestInfoBase: join(world, "guests"), logger: silentLogger });
}

/** Has our genpolicy write the policy of a pod into its YAML. */
export async function withPolicy(world: { readonly directory: string }, yaml: string, profile: "aks" | "coco", pauseImage: string): Promise<string> {
  const file = join(world.directory, "pod.yaml");
  await writeFile(file, yaml);
  const flags = ["--profile", profile, "--oci-layout", join(world.directory, "layout"), "--pause-image", pauseImage, "-y", file];
  await new Promise<void>((done, fail) => {
    execFile(process.execPath, [join(ROOT, "cli/main.ts"), "genpolicy", ...flags], (error, _stdout, stderr) =>
      error === null ? done() : fail(new Error(stderr)),
    );
  });
  return readFile(file, "utf8");
}
