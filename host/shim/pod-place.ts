import { mkdir, rm } from "node:fs/promises";
import { startTimeOf } from "@sealpod/vmm";
import { type CommonArguments, podDirectory, podKey, socketPath } from "./arguments.ts";
import { cleanUp, Deadline, type Leftovers } from "./delete.ts";
import { type PodRecord, readRecord, removeRecord, shimRuns, writeRecord, writeWhole } from "./record.ts";
import { ShimError } from "./errors.ts";

/** Milliseconds for cleaning up after an earlier shim of the same id: as many as `delete` would have. */
const EARLIER_LIMIT = 4000;

/** What a shim leaves on its node while it runs: its record, its address, and the directory of its pod. */
export class PodPlace {
  /** Path of the shim's socket. */
  readonly socket: string;
  readonly #key: string;
  #record: PodRecord;

  /**
   * Writes the first record.
   * @param bundle absolute path
   * @param pid of this process
   */
  constructor(args: Pick<CommonArguments, "address" | "namespace" | "id">, bundle: string, pid: number) {
    this.#key = podKey(args);
    this.socket = socketPath(this.#key);
    this.#record = { version: 1, namespace: args.namespace, id: args.id, pid, startTime: startTimeOf(pid) ?? "", bundle };
    writeRecord(bundle, this.#record);
    // containerd looks for a running shim by the first when it is started again; the second is for people.
    writeWhole(bundle, "address", `unix://${this.socket}`);
    writeWhole(bundle, "shim.pid", String(pid));
  }

  /**
   * Makes the directory of the pod, and writes down that it may be there. What an earlier shim of the same id left behind is cleaned up.
   * @param netns path of the pod's network namespace, if something is to be made in it
   * @throws {ShimError} ERR_SHIM_EXISTS if that shim runs
   */
  async prepare(runDirectory: string, netns: string | undefined, leftovers: Leftovers): Promise<string> {
    const directory = podDirectory(runDirectory, this.#key);
    const earlier = readRecord(directory);
    if (earlier !== undefined) {
      if (earlier.pid !== this.#record.pid && shimRuns(earlier))
        throw new ShimError("ERR_SHIM_EXISTS", `pod ${this.#record.id} is run by the shim of process ${earlier.pid}, whose directory is ${directory}`);
      await cleanUp({ ...earlier, directory }, leftovers, Deadline.in(EARLIER_LIMIT));
    }
    this.#record = { ...this.#record, directory, ...(netns === undefined ? {} : { netns }) };
    writeRecord(this.#record.bundle, this.#record);
    await rm(directory, { recursive: true, force: true });
    await mkdir(directory, { recursive: true, mode: 0o700 });
    writeRecord(directory, this.#record);
    return directory;
  }

  /** Writes down what the emulated security processor has for the pod. */
  launched(processor: string, launch: string): void {
    this.#add({ processor, launch });
  }

  /** Writes down that the shim makes a cgroup. @param path absolute */
  enters(path: string): void {
    this.#add({ cgroup: path });
  }

  #add(more: Partial<PodRecord>): void {
    const { bundle, directory } = this.#record;
    this.#record = { ...this.#record, ...more };
    writeRecord(bundle, this.#record);
    if (directory !== undefined) writeRecord(directory, this.#record);
  }

  /** Removes all of it; the socket last, since without it nobody looks for the rest. */
  async remove(): Promise<void> {
    const { directory, bundle } = this.#record;
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
    removeRecord(bundle);
    await rm(this.socket, { force: true });
  }
}
