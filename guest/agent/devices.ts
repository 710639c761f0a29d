import { statSync } from "node:fs";
import type { JsonObject } from "@sealpod/core";
import type { Device, LinuxDevice } from "@sealpod/proto";
import { componentsBelow, shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

/** Devices of one container. A pod has a handful of raw volumes. */
const MAX_DEVICES = 64;
/** Owner and group may read and write, as device nodes of disks are everywhere. */
const DEFAULT_MODE = 0o660;

/** Nodes that every container gets from the runtime. A request may list them; it may not change what they are. */
const DEFAULT_NODES: ReadonlyMap<string, readonly [major: bigint, minor: bigint]> = new Map([
  ["/dev/null", [1n, 3n]],
  ["/dev/zero", [1n, 5n]],
  ["/dev/full", [1n, 7n]],
  ["/dev/random", [1n, 8n]],
  ["/dev/urandom", [1n, 9n]],
  ["/dev/tty", [5n, 0n]],
]);

/** A disk of the guest that a container gets as a device node. */
export interface GrantedDevice {
  /** Path in the container. */
  readonly path: string;
  /** Path in the guest. */
  readonly disk: string;
  readonly major: bigint;
  readonly minor: bigint;
}

/** Where disks are found; `BlockDevices` is one. */
export interface DiskFinder {
  find(source: string): Promise<{ readonly path: string }>;
}

/** Numbers of a block device, from its node; undefined if it is none. */
export type BlockNumbers = (path: string) => readonly [major: bigint, minor: bigint] | undefined;

/**
 * Finds the disks that a request gives to a container (specs/runtime.md 2.9).
 * @throws {AgentError} ERR_AGENT_REQUEST, ERR_AGENT_PATH, ERR_AGENT_STORAGE if there is no such disk
 */
export async function grantedDevices(devices: readonly Device[], disks: DiskFinder, numbers: BlockNumbers = blockNumbers): Promise<readonly GrantedDevice[]> {
  if (devices.length > MAX_DEVICES) throw refused(`more than ${MAX_DEVICES} devices`);
  const granted: GrantedDevice[] = [];
  for (const { id, type, containerPath, options } of devices) {
    if (type !== "blk") throw refused(`device ${shown(id)} of type ${shown(type)}: expected blk`);
    if (options.length > 0) throw refused(`device ${shown(id)} has options: expected none`);
    componentsBelow("/dev", containerPath);
    if (DEFAULT_NODES.has(containerPath) || granted.some(({ path }) => path === containerPath))
      throw refused(`there is another device at ${shown(containerPath)}`);
    const { path } = await disks.find(id);
    const found = numbers(path);
    if (found === undefined) throw new AgentError("ERR_AGENT_STORAGE", `disk ${shown(id)} is ${path}, which is no block device`);
    const [major, minor] = found;
    granted.push({ path: containerPath, disk: path, major, minor });
  }
  return granted;
}

/** `linux.devices` and `linux.resources.devices` of a config.json. */
export interface RuntimeDevices {
  readonly nodes: readonly JsonObject[];
  /** The runtime itself adds the nodes that every container has. */
  readonly rules: readonly JsonObject[];
}

/**
 * Device nodes of a container and the rules for them: those that the agent has found, and nothing else.
 * @param listed what the specification lists; for a granted one it tells mode and owner
 * @throws {AgentError} ERR_AGENT_REQUEST for a node that was not granted
 */
export function runtimeDevices(listed: readonly LinuxDevice[], granted: readonly GrantedDevice[]): RuntimeDevices {
  const wishes = new Map<string, LinuxDevice>();
  for (const device of listed) {
    const { Path: path, Type: type, Major: major, Minor: minor } = device;
    const usual = DEFAULT_NODES.get(path);
    const isUsual = usual !== undefined && type === "c" && usual[0] === major && usual[1] === minor;
    const isGranted = type === "b" && granted.some((grant) => grant.path === path);
    if ((!isUsual && !isGranted) || wishes.has(path))
      throw refused(`device node ${shown(path)} (${shown(type)} ${major}:${minor}) is not one that the container was given`);
    wishes.set(path, device);
  }
  return {
    nodes: granted.map(({ path, major, minor }) => {
      const { FileMode: mode = 0, UID: uid = 0, GID: gid = 0 } = wishes.get(path) ?? {};
      return { path, type: "b", major, minor, fileMode: mode & 0o777 || DEFAULT_MODE, uid, gid };
    }),
    rules: [{ allow: false, access: "rwm" }, ...granted.map(({ major, minor }) => ({ allow: true, type: "b", major, minor, access: "rwm" }))],
  };
}

/** The numbers are packed as glibc's makedev does. */
function blockNumbers(path: string): readonly [bigint, bigint] | undefined {
  const stat = statSync(path, { bigint: true });
  if (!stat.isBlockDevice()) return undefined;
  const { rdev } = stat;
  return [((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn), (rdev & 0xffn) | ((rdev >> 12n) & ~0xffn)];
}

function refused(problem: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", problem);
}
