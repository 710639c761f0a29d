import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { isSealpodError, messageOf, type Clock, type Logger } from "@sealpod/core";
import {
  AccessTokens,
  openSidecarLog,
  openSidecarPorts,
  readAuthorities,
  releaseBy,
  requestGate,
  sidecarBackends,
  withHint,
  type ReleasePorts,
  type RequestGate,
} from "@sealpod/skr";
import {
  BlockCache,
  blobClient,
  mountImage,
  openBlob,
  parseEncfsArguments,
  readHeader,
  serveDevice,
  STORAGE_RESOURCE,
  volumePassphrase,
  type BlobPorts,
  type Mounted,
  type MountRequest,
  type RemoteFilesystem,
  type Run,
} from "./index.ts";

/** Where the kernel shows its network block devices; one that is in use has a file `pid`. */
const BLOCK_DEVICES = "/sys/block";

/** Milliseconds for a program of the distribution. Opening a volume takes a second or two of key derivation. */
const COMMAND_TIME = 120_000;

const env = process.env;
const clock: Clock = { now: () => Date.now() };

async function main(): Promise<void> {
  const { sidecar, filesystems } = parseEncfsArguments(env["EncfsSideCarArgs"]);
  const logger = openSidecarLog("encfs", { logFile: setting("LogFile"), logLevel: setting("LogLevel") }, clock);
  const ports = await openSidecarPorts({ sidecarArguments: sidecar, allowMismatchedTcb: false }, { env, clock, logger });
  const gate = requestGate(ports);
  const http = blobClient((await readAuthorities(env)).pem);
  const tokens = new AccessTokens();
  await using stack = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "encfs-"));
  stack.defer(async () => rm(directory, { recursive: true, force: true }));
  const stopped = new Promise<string>((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve(signal));
  });
  try {
    for (const [index, filesystem] of filesystems.entries()) {
      const accessToken = filesystem.isPrivate ? async (): Promise<string> => (await tokens.get(ports, STORAGE_RESOURCE)).token : undefined;
      const blobPorts: BlobPorts = { http, accessToken, random: ports.random, wait: async (milliseconds) => delay(milliseconds) };
      const blob = await openBlob(filesystem.url, filesystem.isWritable, blobPorts);
      const socket = join(directory, String(index), "nbd");
      await mkdir(join(directory, String(index)), { mode: 0o700 });
      const device = new BlockCache(blob);
      const header = await readHeader(device);
      const server = await serveDevice(socket, { device, isReadOnly: !filesystem.isWritable, logger });
      stack.defer(async () => server.close());
      const image = { socket, header, headerFile: join(directory, String(index), "header") };
      const mounted = await mount(index, filesystem, image, ports, gate, logger);
      stack.defer(async () => mounted.unmount());
      logger.log("info", "mounted", { mountPoint: filesystem.mountPoint, bytes: blob.length, writable: filesystem.isWritable });
    }
    await tell("1");
    const signal = await stopped;
    logger.log("info", "stopping", { signal });
  } catch (error) {
    await tell("0");
    throw error;
  }
}

async function mount(
  index: number,
  filesystem: RemoteFilesystem,
  image: Pick<MountRequest, "socket" | "header" | "headerFile">,
  ports: ReleasePorts,
  gate: RequestGate,
  logger: Logger,
): Promise<Mounted> {
  const { key, derivation, mountPoint, isWritable } = filesystem;
  const passphrase = key.kind === "raw" ? Uint8Array.from(key.bytes) : await released(key, derivation, ports, gate);
  if (key.kind === "raw") logger.log("warn", "the key of a filesystem stands in EncfsSideCarArgs: whoever reads the pod's YAML has it", { mountPoint });
  try {
    return await mountImage({ index, ...image, passphrase, mountPoint, isWritable }, { run: runProgram, logger, freeDevices });
  } finally {
    passphrase.fill(0);
  }
}

async function released(
  key: Extract<RemoteFilesystem["key"], { readonly kind: "released" }>,
  derivation: RemoteFilesystem["derivation"],
  ports: ReleasePorts,
  gate: RequestGate,
): Promise<Uint8Array> {
  const request = { attestationEndpoint: key.attestation, storeEndpoint: key.vault, kid: key.kid, accessToken: undefined };
  const jwk = await gate(undefined, async (inner) => releaseBy(sidecarBackends(ports), inner, request));
  return volumePassphrase(jwk, derivation);
}

/** For who waits for the filesystems: "1" when all are mounted, "0" when that failed. */
async function tell(result: "0" | "1"): Promise<void> {
  const file = setting("EncfsResultFile");
  if (file !== undefined) await writeFile(file, result);
}

const runProgram: Run = async (command, args, input) =>
  new Promise((resolve, reject) => {
    const options = { timeout: COMMAND_TIME, maxBuffer: 64 * 1024, env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" } };
    const child = execFile(command, [...args], options, (error, _stdout, stderr) => {
      if (error === null) resolve();
      else if ("code" in error && error.code === "ENOENT") reject(new Error(`${command} is not in the image`));
      else
        reject(
          new Error(
            `${command}: ${stderr.trim().split("\n").at(-1)?.slice(0, 300) ?? ""} (${error.killed === true ? "took too long" : `exit ${String(error.code)}`})`,
          ),
        );
    });
    // It may have ended before it read.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(input);
  });

async function freeDevices(): Promise<readonly string[]> {
  const names = (await readdir(BLOCK_DEVICES).catch(() => [])).filter((name) => /^nbd\d+$/.test(name));
  const used = await Promise.all(names.map(async (name) => (await readdir(join(BLOCK_DEVICES, name)).catch(() => ["pid"])).includes("pid")));
  return names.filter((_name, at) => used[at] === false).toSorted((a, b) => Number(a.slice(3)) - Number(b.slice(3)));
}

/** An environment variable; empty is as good as absent. */
function setting(name: string): string | undefined {
  const value = env[name];
  return value === "" ? undefined : value;
}

main().catch((error: unknown) => {
  process.stderr.write(`encfs: ${isSealpodError(error) ? withHint(error) : messageOf(error)}\n`);
  process.exitCode = isSealpodError(error) ? error.row.exit : 1;
});
