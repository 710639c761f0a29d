import { request, type IncomingMessage } from "node:http";
import { asObject, encodeJson, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { VmmError, type VmmErrorCode } from "./errors.ts";

/** Largest answer: vm.info with 300 disks has less than 200 KiB. */
const MAX_ANSWER = 1024 * 1024;

/** Characters of an answer that a message repeats. */
const MAX_REASON = 400;

/** A disk as the monitor has it now. */
export interface AttachedDevice {
  /** Name for vm.remove-device. */
  readonly id: string;
  /** Domain, bus, slot and function, for example `0001:00:01.0`. */
  readonly bdf: string;
}

/** States of a machine that a driver passes through. */
export type VmState = "Created" | "Running" | "Shutdown" | "Paused";

interface Call {
  readonly method: "GET" | "PUT";
  /** The part after `/api/v1/`. */
  readonly name: string;
  readonly body?: JsonObject;
  readonly statuses: readonly number[];
  readonly limitMs: number;
  readonly code: VmmErrorCode;
}

/**
 * The HTTP interface of a Cloud Hypervisor process, over its unix socket (specs/runtime.md 4.6). Limits are milliseconds.
 * Errors are {@link VmmError}; `details.status` is there if the monitor answered, so without it nobody knows whether it did what it was asked.
 */
export class CloudHypervisorApi {
  readonly #socket: string;

  constructor(socket: string) {
    this.#socket = socket;
  }

  /** @throws {VmmError} ERR_VMM_BOOT while the monitor does not answer */
  async ping(limitMs: number): Promise<void> {
    await this.#call({ method: "GET", name: "vmm.ping", statuses: [200], limitMs, code: "ERR_VMM_BOOT" });
  }

  /** @throws {VmmError} ERR_VMM_BOOT */
  async create(config: JsonObject, limitMs: number): Promise<void> {
    await this.#call({ method: "PUT", name: "vm.create", body: config, statuses: [204], limitMs, code: "ERR_VMM_BOOT" });
  }

  /** @throws {VmmError} ERR_VMM_BOOT */
  async boot(limitMs: number): Promise<void> {
    await this.#call({ method: "PUT", name: "vm.boot", statuses: [204], limitMs, code: "ERR_VMM_BOOT" });
  }

  /**
   * Checks the machine's state: an answer without error is not yet a machine that runs.
   * @throws {VmmError} ERR_VMM_BOOT
   */
  async expectState(state: VmState, limitMs: number): Promise<void> {
    const info = asObject(await this.#call({ method: "GET", name: "vm.info", statuses: [200], limitMs, code: "ERR_VMM_BOOT" }));
    const found = info?.["state"];
    if (found === state) return;
    const text = typeof found === "string" ? found.slice(0, 40) : "missing";
    throw new VmmError("ERR_VMM_BOOT", `cloud-hypervisor: vm.info: state is ${JSON.stringify(text)}, expected ${JSON.stringify(state)}`);
  }

  /** Adds a network card; before the boot the answer is empty. @throws {VmmError} ERR_VMM_BOOT */
  async addNet(config: JsonObject, limitMs: number): Promise<void> {
    await this.#call({ method: "PUT", name: "vm.add-net", body: config, statuses: [200, 204], limitMs, code: "ERR_VMM_BOOT" });
  }

  /** @throws {VmmError} ERR_VMM_DISK */
  async addDisk(config: JsonObject, limitMs: number): Promise<AttachedDevice> {
    const answer = asObject(await this.#call({ method: "PUT", name: "vm.add-disk", body: config, statuses: [200], limitMs, code: "ERR_VMM_DISK" }));
    const { id, bdf } = answer ?? {};
    if (typeof id === "string" && typeof bdf === "string" && /^[0-9A-Za-z_.-]{1,64}$/.test(id)) return { id, bdf };
    throw new VmmError("ERR_VMM_DISK", "cloud-hypervisor: vm.add-disk: the answer has no id and bdf", { details: { status: 200 } });
  }

  /** @throws {VmmError} ERR_VMM_DISK */
  async removeDevice(id: string, limitMs: number): Promise<void> {
    await this.#call({ method: "PUT", name: "vm.remove-device", body: { id }, statuses: [204], limitMs, code: "ERR_VMM_DISK" });
  }

  /** Powers the machine off; the monitor goes on. @throws {VmmError} ERR_VMM_STOPPED */
  async shutdownMachine(limitMs: number): Promise<void> {
    await this.#call({ method: "PUT", name: "vm.shutdown", statuses: [204], limitMs, code: "ERR_VMM_STOPPED" });
  }

  /** Ends the monitor. @throws {VmmError} ERR_VMM_STOPPED */
  async shutdownMonitor(limitMs: number): Promise<void> {
    await this.#call({ method: "PUT", name: "vmm.shutdown", statuses: [200, 204], limitMs, code: "ERR_VMM_STOPPED" });
  }

  async #call(call: Call): Promise<JsonValue | undefined> {
    const { name, statuses, code } = call;
    let answer: { readonly status: number; readonly text: string };
    try {
      answer = await this.#exchange(call);
    } catch (cause) {
      throw new VmmError(code, `cloud-hypervisor: ${name}: ${messageOf(cause)}`, { cause, details: { call: name } });
    }
    const { status, text } = answer;
    if (!statuses.includes(status)) {
      throw new VmmError(code, `cloud-hypervisor: ${name}: status ${status}, expected ${statuses.join(" or ")}: ${reasonOf(text)}`, {
        details: { call: name, status },
      });
    }
    if (status === 204 || text === "") return undefined;
    try {
      return parseJson(text, `answer to ${name}`);
    } catch (cause) {
      throw new VmmError(code, `cloud-hypervisor: ${messageOf(cause)}`, { cause, details: { call: name, status } });
    }
  }

  /** One connection for each call: a monitor that hangs in one holds up no other. */
  async #exchange({ method, name, body, limitMs }: Call): Promise<{ readonly status: number; readonly text: string }> {
    const bytes = Buffer.from(body === undefined ? "" : encodeJson(body));
    // The length is always said: the monitor's small HTTP server reads no chunks.
    const headers = { Accept: "application/json", "Content-Length": bytes.length, ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
    const { promise, resolve, reject } = Promise.withResolvers<{ readonly status: number; readonly text: string }>();
    const outgoing = request({ socketPath: this.#socket, method, path: `/api/v1/${name}`, headers, agent: false }, (incoming) => {
      readAnswer(incoming).then((text) => resolve({ status: incoming.statusCode ?? 0, text }), reject);
    });
    const timer = setTimeout(() => outgoing.destroy(new Error(`no answer after ${limitMs} ms`)), limitMs);
    outgoing.on("error", reject);
    outgoing.end(bytes);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      outgoing.destroy();
    }
  }
}

async function readAnswer(incoming: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of incoming) {
    chunks.push(chunk as Buffer);
    length += (chunk as Buffer).length;
    if (length > MAX_ANSWER) throw new Error(`the answer has more than ${MAX_ANSWER} bytes`);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** What the monitor says, in one line of printable characters. */
function reasonOf(text: string): string {
  const line = text
    .slice(0, MAX_REASON)
    .replaceAll(/[^\x20-\x7e]+/g, " ")
    .trim();
  return line === "" ? "no reason given" : line;
}
