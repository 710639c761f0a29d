import { chmod, mkdir, readdir, readFile, rm } from "node:fs/promises";
import { createServer, request as httpRequest } from "node:http";
import { join } from "node:path";
import {
  asArray,
  asObject,
  concatBytes,
  decodeUtf8,
  encodeUtf8,
  fromBase64,
  isSealpodError,
  messageOf,
  parseJson,
  toBase64,
  toHex,
  type JsonObject,
  type Random,
} from "@sealpod/core";
import { isAlive, writeFileAtomic } from "@sealpod/io";
import { PodError } from "./errors.ts";
import type { RunningPod } from "./pod.ts";

/**
 * The control socket of a running pod: how `sealpod exec`, `logs` and `stop` reach the process that runs it. It is the host's side and
 * has the host's power, which is none over the policy: an exec that the agent refuses is refused here.
 *
 * HTTP and JSON over a unix socket in a private directory: `POST /exec {container, command}` → {exitCode, stdout, stderr} (base64),
 * `GET /logs?container=` → text, `POST /stop` → 202. Errors are `{"error":{"code","message"}}`.
 */

/** Bytes of output of one container, and of one exec, that are kept. The oldest go first. */
const MAX_OUTPUT: number = 4 * 1024 * 1024;

/** Largest request: a command line. */
const MAX_REQUEST: number = 128 * 1024;

/** Largest answer: two streams in base64. */
const MAX_ANSWER: number = 16 * 1024 * 1024;

/** What `pod.json` says of a running pod. */
export interface PodRecord {
  /** Sandbox id. */
  readonly id: string;
  readonly name: string;
  readonly namespace: string;
  /** Process that runs the pod. */
  readonly pid: number;
  readonly hostData: string;
  /** What separates the pod from this machine. */
  readonly isolation: "vm" | "process";
  readonly containers: readonly string[];
  /** Ports of 127.0.0.1 and of the pod. */
  readonly ports: readonly { readonly host: number; readonly container: number }[];
  /** Directory of the record and the socket. */
  readonly directory: string;
}

/** Outcome of a command in a container. */
export interface ExecResult {
  readonly exitCode: number;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
}

/** Keeps the last bytes of each container's output. */
export class OutputLog {
  readonly #logs = new Map<string, { readonly chunks: Uint8Array[]; size: number }>();

  append(container: string, bytes: Uint8Array): void {
    const log = this.#logs.get(container) ?? { chunks: [], size: 0 };
    this.#logs.set(container, log);
    log.chunks.push(bytes);
    log.size += bytes.length;
    while (log.size > MAX_OUTPUT && log.chunks.length > 1) log.size -= log.chunks.shift()?.length ?? 0;
  }

  read(container: string): Uint8Array {
    return concatBytes(...(this.#logs.get(container)?.chunks ?? []));
  }
}

/** Runs a command in a container of a pod; collects what it writes. */
export async function execInPod(pod: RunningPod, name: string | undefined, command: readonly string[], random: Random): Promise<ExecResult> {
  const target = name === undefined ? pod.containers[0] : pod.containers.find((item) => item.name === name);
  if (target === undefined) {
    throw new PodError("ERR_POD_CONTAINER", `pod ${pod.plan.name} has no container ${name ?? ""}`, {
      hint: `It has ${pod.containers.map((item) => item.name).join(", ")}.`,
    });
  }
  const stdout: Uint8Array[] = [];
  const stderr: Uint8Array[] = [];
  const process = await target.container.exec({
    execId: toHex(random.bytes(32)),
    // The rest is the container's own, as CRI's ExecSync sends it.
    process: { ...target.plan.spec.process, terminal: false, args: command } as { readonly terminal: boolean },
    stdout: boundedSink(stdout),
    stderr: boundedSink(stderr),
  });
  await process.closeStdin().catch(() => undefined);
  return { exitCode: await process.exited, stdout: concatBytes(...stdout), stderr: concatBytes(...stderr) };
}

function boundedSink(chunks: Uint8Array[]): { write(bytes: Uint8Array): Promise<void> } {
  let size = 0;
  return {
    write: async (bytes) => {
      const room = Math.max(0, MAX_OUTPUT - size);
      size += bytes.length;
      if (room > 0) chunks.push(bytes.slice(0, room));
    },
  };
}

/** The control socket while it is served. */
export interface PodControl extends AsyncDisposable {
  readonly record: PodRecord;
}

/**
 * Writes the pod's record and serves its control socket.
 * @param onStop called once when somebody asks the pod to stop
 */
export async function serveControl(
  pod: RunningPod,
  options: {
    readonly record: PodRecord;
    readonly log: OutputLog;
    readonly random: Random;
    readonly onStop: () => void;
  },
): Promise<PodControl> {
  const { record, log, random, onStop } = options;
  await mkdir(record.directory, { recursive: true, mode: 0o700 });
  const server = createServer((request, response) => {
    const chunks: Uint8Array[] = [];
    let size = 0;
    request.on("data", (chunk: Uint8Array) => {
      size += chunk.length;
      if (size > MAX_REQUEST) request.destroy();
      else chunks.push(chunk);
    });
    request.on("end", () => {
      answer(pod, log, random, onStop, request.method ?? "", request.url ?? "", concatBytes(...chunks)).then(
        ({ status, body }) => response.writeHead(status, { "content-type": "application/json" }).end(body),
        (error: unknown) => {
          const denied = isSealpodError(error) && error.row.exit === 3;
          const code = isSealpodError(error) ? error.code : "ERR_UNEXPECTED";
          const hint = isSealpodError(error) ? error.hint : undefined;
          response
            .writeHead(denied ? 403 : 500, { "content-type": "application/json" })
            .end(JSON.stringify({ error: { code, message: messageOf(error), hint, denied } }));
        },
      );
    });
  });
  const socket = join(record.directory, "pod.sock");
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(socket, resolve);
  });
  await chmod(socket, 0o600);
  // The record last: who finds it finds the socket listening.
  await writeFileAtomic(join(record.directory, "pod.json"), encodeUtf8(`${JSON.stringify(record, undefined, 2)}\n`), 0o600);
  return {
    record,
    async [Symbol.asyncDispose]() {
      await rm(join(record.directory, "pod.json"), { force: true });
      server.close();
      server.closeIdleConnections();
      await rm(record.directory, { recursive: true, force: true });
    },
  };
}

async function answer(
  pod: RunningPod,
  log: OutputLog,
  random: Random,
  onStop: () => void,
  method: string,
  path: string,
  bytes: Uint8Array,
): Promise<{ readonly status: number; readonly body: string }> {
  const url = new URL(path, "http://pod");
  switch (`${method} ${url.pathname}`) {
    case "POST /exec": {
      const body = asObject(parseJson(decodeUtf8(bytes, "request"), "request")) ?? {};
      const container = body["container"];
      const command = strings(body["command"]);
      const result = await execInPod(pod, typeof container === "string" ? container : undefined, command, random);
      return { status: 200, body: JSON.stringify({ exitCode: result.exitCode, stdout: toBase64(result.stdout), stderr: toBase64(result.stderr) }) };
    }
    case "GET /logs": {
      const name = url.searchParams.get("container") ?? pod.containers[0]?.name ?? "";
      if (!pod.containers.some((item) => item.name === name)) throw new PodError("ERR_POD_CONTAINER", `pod ${pod.plan.name} has no container ${name}`);
      return { status: 200, body: JSON.stringify({ output: toBase64(log.read(name)) }) };
    }
    case "POST /stop":
      onStop();
      return { status: 202, body: "{}" };
    default:
      return { status: 404, body: JSON.stringify({ error: { code: "ERR_POD_CONTROL", message: `no ${method} ${url.pathname}` } }) };
  }
}

function strings(value: unknown): readonly string[] {
  const list = asArray(value as never)?.filter((item) => typeof item === "string") ?? [];
  if (list.length === 0) throw new PodError("ERR_POD_CONTROL", "command is not a list of strings");
  return list;
}

/** The running pods of a state directory; records of ended processes are left out. */
export async function listPods(runDirectory: string): Promise<readonly PodRecord[]> {
  const names = await readdir(runDirectory).catch(() => []);
  const records: PodRecord[] = [];
  for (const name of names.toSorted((a, b) => a.localeCompare(b))) {
    const text = await readFile(join(runDirectory, name, "pod.json"), "utf8").catch(() => undefined);
    if (text === undefined) continue;
    const record = JSON.parse(text) as PodRecord;
    if (isAlive(record.pid)) records.push(record);
  }
  return records;
}

/**
 * The pod that a person means: by the beginning of its name or sandbox id.
 * @throws {PodError} ERR_POD_NOT_FOUND if there is none or more than one
 */
export async function findPod(runDirectory: string, text: string): Promise<PodRecord> {
  const all = await listPods(runDirectory);
  const exact = all.filter((record) => record.name === text || record.id === text);
  const found = exact.length > 0 ? exact : all.filter((record) => record.name.startsWith(text) || record.id.startsWith(text));
  const [record] = found;
  if (record !== undefined && found.length === 1) return record;
  const running = all.length === 0 ? "No pod is running: start one with `sealpod run -d FILE`." : `Running: ${all.map((item) => item.name).join(", ")}.`;
  throw new PodError(
    "ERR_POD_NOT_FOUND",
    found.length === 0 ? `no running pod is called ${JSON.stringify(text)}` : `${found.length} pods begin with ${JSON.stringify(text)}`,
    {
      hint: running,
    },
  );
}

/** Client of a pod's control socket. */
export class PodClient {
  readonly record: PodRecord;

  constructor(record: PodRecord) {
    this.record = record;
  }

  /** @throws {PodError} ERR_POD_REFUSED with the agent's reason, ERR_POD_CONTROL */
  async exec(container: string | undefined, command: readonly string[]): Promise<ExecResult> {
    const body = await this.#call("POST", "/exec", JSON.stringify({ container, command }));
    const { exitCode, stdout, stderr } = body;
    if (typeof exitCode !== "number" || typeof stdout !== "string" || typeof stderr !== "string")
      throw new PodError("ERR_POD_CONTROL", "the pod's answer is malformed");
    return { exitCode, stdout: fromBase64(stdout), stderr: fromBase64(stderr) };
  }

  /** What a container has written, as far as it is kept. */
  async logs(container: string | undefined): Promise<Uint8Array> {
    const body = await this.#call("GET", container === undefined ? "/logs" : `/logs?container=${encodeURIComponent(container)}`);
    return fromBase64(typeof body["output"] === "string" ? body["output"] : "");
  }

  /** Asks the pod to stop; does not wait for it. */
  async stop(): Promise<void> {
    await this.#call("POST", "/stop");
  }

  async #call(method: string, path: string, body = ""): Promise<JsonObject> {
    const result = Promise.withResolvers<{ readonly status: number; readonly text: string }>();
    const call = httpRequest({ socketPath: join(this.record.directory, "pod.sock"), method, path, agent: false }, (response) => {
      const chunks: Uint8Array[] = [];
      let size = 0;
      response.on("data", (chunk: Uint8Array) => {
        size += chunk.length;
        if (size > MAX_ANSWER) call.destroy(new Error("the answer is too large"));
        else chunks.push(chunk);
      });
      response.on("error", result.reject);
      response.on("end", () => result.resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString("utf8") }));
    });
    call.on("error", result.reject);
    call.end(body);
    const { status, text } = await result.promise.catch((cause: unknown) => {
      throw new PodError("ERR_POD_CONTROL", `the process of pod ${this.record.name} (${this.record.pid}) does not answer: ${messageOf(cause)}`, { cause });
    });
    const parsed = asObject(parseJson(text, "answer")) ?? {};
    if (status < 300) return parsed;
    const error = asObject(parsed["error"]);
    const message = typeof error?.["message"] === "string" ? error["message"] : `status ${status}`;
    const hint = typeof error?.["hint"] === "string" ? { hint: error["hint"] } : {};
    throw new PodError(error?.["denied"] === true ? "ERR_POD_REFUSED" : "ERR_POD_CONTROL", message, hint);
  }
}
