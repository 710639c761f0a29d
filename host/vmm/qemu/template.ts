import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { asArray, asObject, messageOf, parseJson } from "@sealpod/core";
import { VmmError } from "../errors.ts";
import { qemuArguments, type QemuPlan } from "./command.ts";
import type { QmpClient, QmpEvent } from "./qmp.ts";

/** Files of a template's directory. */
const FILES = { description: "template.json", memory: "memory", state: "state" } as const;

/** Version of {@link FILES.description}. */
const FORMAT = 1;

/** Largest description: arguments of QEMU are some 10 KiB. */
const MAX_DESCRIPTION_LENGTH = 256 * 1024;

/** What a machine and its template must have in common, word for word. */
export type TemplateShape = readonly string[];

/** Path of the file with a template's memory. */
export function templateMemory(directory: string): string {
  return join(directory, FILES.memory);
}

/**
 * What a saved state depends on: QEMU's build and its arguments, with digests in place of paths, and without what may differ. The root disk
 * needs no digest: its root hash is on the kernel's command line.
 */
export async function templateShape(plan: QemuPlan): Promise<TemplateShape> {
  const { guest } = plan;
  const [kernel, initrd, root] = await Promise.all([digestOf(guest.kernel), digestOf(guest.initrd), stat(guest.root)]);
  const neutral: QemuPlan = {
    ...plan,
    name: "template",
    monitorSocket: "",
    channelSocket: "",
    incoming: false,
    memoryFile: { path: "", shared: false },
    guest: { kind: "uvm", commandLine: guest.commandLine, kernel, initrd, root: `${root.size} bytes` },
  };
  return [plan.version.text, ...qemuArguments(neutral)];
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: 1024 * 1024 }), hash);
  return `sha256:${hash.digest("hex")}`;
}

/**
 * Checks that a template fits a machine.
 * @throws {VmmError} ERR_VMM_TEMPLATE that names the first difference
 */
export async function checkTemplate(directory: string, shape: TemplateShape): Promise<void> {
  const path = join(directory, FILES.description);
  const found = await readDescription(path);
  const length = Math.max(found.length, shape.length);
  for (let index = 0; index < length; index++) {
    if (found[index] === shape[index]) continue;
    const name = index === 0 ? "QEMU" : `argument ${index}`;
    throw new VmmError("ERR_VMM_TEMPLATE", `${path}: ${name} is ${quote(found[index])}, expected ${quote(shape[index])}`, {
      details: { path, found: found[index], expected: shape[index] },
      hint: "A saved state fits only a machine with the same kernel, initrd, command line, devices and QEMU. Make a new template.",
    });
  }
}

function quote(text: string | undefined): string {
  return text === undefined ? "absent" : JSON.stringify(text);
}

async function readDescription(path: string): Promise<TemplateShape> {
  const fail = (reason: string, cause?: unknown): never => {
    throw new VmmError("ERR_VMM_TEMPLATE", `${path}: ${reason}`, { cause, hint: "Make a new template." });
  };
  let text: string;
  try {
    if ((await stat(path)).size > MAX_DESCRIPTION_LENGTH) return fail(`longer than ${MAX_DESCRIPTION_LENGTH} bytes`);
    text = await readFile(path, "utf8");
  } catch (cause) {
    return fail(messageOf(cause), cause);
  }
  const description = parseDescription(text);
  return description ?? fail(`expected {"version": ${FORMAT}, "shape": [texts]}`);
}

function parseDescription(text: string): TemplateShape | undefined {
  let description;
  try {
    description = asObject(parseJson(text));
  } catch {
    return undefined;
  }
  const shape = asArray(description?.["shape"]);
  return description?.["version"] === FORMAT && shape?.every((item) => typeof item === "string") === true ? (shape as readonly string[]) : undefined;
}

/** Waits for the end of a migration; QEMU tells its steps by events. */
export class MigrationWatch {
  #done: PromiseWithResolvers<string> = Promise.withResolvers<string>();

  /** Takes QEMU's events. */
  take(event: QmpEvent): void {
    const status = event.name === "MIGRATION" ? event.data["status"] : undefined;
    if (status === "completed" || status === "failed" || status === "cancelled") this.#done.resolve(status);
  }

  /** @throws {VmmError} ERR_VMM_TEMPLATE */
  async completed(monitor: QmpClient): Promise<void> {
    const status = await Promise.race([this.#done.promise, monitor.closed]);
    if (status !== "completed") throw new VmmError("ERR_VMM_TEMPLATE", `QEMU moves the machine's state: found ${status}, expected completed`);
  }
}

/** The state goes over a socket: QEMU's sandbox starts no programs. Memory stays in its file. */
async function prepareMigration(monitor: QmpClient): Promise<void> {
  const capabilities = ["events", "x-ignore-shared"].map((capability) => ({ capability, state: true }));
  await monitor.execute("migrate-set-capabilities", { capabilities });
}

/**
 * Saves a machine whose memory is the shared file `memory` of a directory, and stops it for good. The directory gets its name only when it is
 * complete.
 * @param listen takes one connection at a path
 * @throws {VmmError} ERR_VMM_TEMPLATE, ERR_VMM_MONITOR
 */
export async function saveTemplate(options: {
  readonly monitor: QmpClient;
  readonly watch: MigrationWatch;
  readonly shape: TemplateShape;
  readonly directory: string;
  readonly socket: string;
  readonly listen: (path: string, take: (stream: { readonly readable: AsyncIterable<Uint8Array> }) => void) => Promise<AsyncDisposable>;
}): Promise<void> {
  const { monitor, watch, directory, socket } = options;
  await monitor.execute("stop");
  await prepareMigration(monitor);
  const written = Promise.withResolvers<void>();
  written.promise.catch(() => undefined);
  await using _server = await options.listen(socket, (stream) => {
    pipeline(stream.readable, createWriteStream(join(directory, FILES.state), { mode: 0o600 })).then(written.resolve, written.reject);
  });
  await monitor.execute("migrate", { uri: `unix:${socket}` });
  await watch.completed(monitor);
  await written.promise;
  await writeFile(join(directory, FILES.description), `${JSON.stringify({ version: FORMAT, shape: options.shape }, null, 1)}\n`, { mode: 0o600 });
}

/**
 * Gives a waiting QEMU the state of a template; its machine then runs on.
 * @throws {VmmError} ERR_VMM_TEMPLATE, ERR_VMM_MONITOR
 */
export async function restoreTemplate(options: {
  readonly monitor: QmpClient;
  readonly watch: MigrationWatch;
  readonly directory: string;
  readonly socket: string;
}): Promise<void> {
  const { monitor, watch, directory, socket } = options;
  await prepareMigration(monitor);
  // QEMU listens at the socket once this has been answered.
  await monitor.execute("migrate-incoming", { uri: `unix:${socket}` });
  // QEMU may hang up before the last acknowledgement, so its word is what counts; a state that breaks off it calls a failure.
  const sent = pipeline(createReadStream(join(directory, FILES.state)), connect(socket)).catch(() => undefined);
  await watch.completed(monitor);
  await sent;
  await monitor.execute("cont");
}

/** Fills a directory that is not there yet: under another name until `fill` has ended. */
export async function createDirectory(directory: string, fill: (unfinished: string) => Promise<void>): Promise<void> {
  const unfinished = `${directory}.unfinished`;
  try {
    // Not recursive: what is there already belongs to somebody.
    await mkdir(unfinished, { mode: 0o700 });
  } catch (cause) {
    throw new VmmError("ERR_VMM_TEMPLATE", `cannot make ${unfinished}: ${messageOf(cause)}`, { cause, hint: "If an earlier attempt left it, remove it." });
  }
  try {
    await fill(unfinished);
    await rename(unfinished, directory);
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    throw error;
  }
}
