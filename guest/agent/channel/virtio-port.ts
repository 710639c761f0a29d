import { constants, openSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { messageOf } from "@sealpod/core";
import { byteStream, type ByteStream } from "@sealpod/ttrpc";
import { AgentError } from "../errors.ts";
import { shown } from "../confined-directory.ts";
import { socketOnDescriptor } from "./pipe.ts";

/** Where the kernel shows virtio ports. */
export interface VirtioDirectories {
  /** One directory for each port, with a file `name`. Default `/sys/class/virtio-ports`. */
  readonly ports: string;
  /** The devices, under the same names. Default `/dev`. */
  readonly devices: string;
}

const KERNEL: VirtioDirectories = { ports: "/sys/class/virtio-ports", devices: "/dev" };

/**
 * Opens the virtio-serial port with this name: a machine's channel to its host. `/dev/virtio-ports/NAME` would be udev's link to it, and there is
 * no udev here. The stream ends when the host hangs up; then the port has to be closed and opened again.
 * @throws {AgentError} ERR_AGENT_CONFIG if there is no such port, or another process has it open
 */
export async function openVirtioPort(name: string, directories: VirtioDirectories = KERNEL): Promise<ByteStream> {
  const path = `${directories.devices}/${await findPort(name, directories.ports)}`;
  try {
    return byteStream(socketOnDescriptor(openSync(path, constants.O_RDWR | constants.O_NONBLOCK)));
  } catch (cause) {
    throw new AgentError("ERR_AGENT_CONFIG", `the virtio port ${shown(name)} cannot be opened at ${path}: ${messageOf(cause)}`, { cause });
  }
}

async function findPort(name: string, ports: string): Promise<string> {
  const found: string[] = [];
  for (const entry of await readdir(ports).catch((): string[] => [])) {
    const text = await readFile(`${ports}/${entry}/name`, "utf8").catch(() => "");
    if (text.trimEnd() === name) return entry;
    found.push(shown(text.trimEnd()));
  }
  throw new AgentError("ERR_AGENT_CONFIG", `no virtio port is named ${shown(name)}: found ${found.length === 0 ? "none" : found.join(", ")} in ${ports}`);
}
