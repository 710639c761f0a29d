import type { ByteSink } from "@sealpod/core";
import { encodeMessage, taskApi, type MessageInitShape, type StatsContainerResponse } from "@sealpod/proto";
import { SandboxError, type GuestProcess, type ProcessOutput, type SandboxErrorCode } from "@sealpod/sandbox";
import { TtrpcClient, TtrpcError, memoryStreams, serveTtrpc, type Timer } from "@sealpod/ttrpc";
import type { MachineExit } from "@sealpod/vmm";
import type { ContainerRequest, Pod, PodContainer, PodOpener, StreamNames, TaskStreams } from "../pod.ts";
import type { EventPublisher, EventTopic } from "../publisher.ts";
import { TaskService, type TaskServiceOptions } from "../task-service.ts";

/** Lets everything run that can without time passing. Many turns: a call over memory streams takes dozens of promises. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 12; turn++) await new Promise<void>((resolve) => setImmediate(resolve));
}

/** Time passes when the test says. */
export class ManualTimer implements Timer {
  now = 1_700_000_000_000;
  readonly #due = new Map<symbol, { readonly at: number; readonly call: () => void }>();

  get pending(): number {
    return this.#due.size;
  }

  after(milliseconds: number, callback: () => void): () => void {
    const key = Symbol("timer");
    this.#due.set(key, { at: this.now + milliseconds, call: callback });
    return () => void this.#due.delete(key);
  }

  /** Passes time, in order, and lets what follows run. */
  async pass(milliseconds: number): Promise<void> {
    const until = this.now + milliseconds;
    for (;;) {
      await settle();
      const [next] = [...this.#due].filter(([, { at }]) => at <= until).toSorted(([, a], [, b]) => a.at - b.at);
      if (next === undefined) break;
      this.#due.delete(next[0]);
      this.now = Math.max(this.now, next[1].at);
      next[1].call();
    }
    this.now = until;
  }
}

/** What a guest does when it is asked something: the test answers. */
export interface Scripted {
  /** Names of what was asked, e.g. `start c1`, `signal c1 15`. */
  readonly calls: string[];
  /** Answers to calls by the first word; an error is thrown, a promise is awaited. Without one the call succeeds. */
  readonly answers: Map<string, () => unknown>;
}

/** A process of the fake guest. */
export class FakeProcess {
  readonly input: Uint8Array[] = [];
  readonly sizes: string[] = [];
  readonly output: ProcessOutput;
  readonly exited: Promise<number>;
  /** Settles the copying of its output. */
  readonly copying: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly copied: Promise<void> = this.copying.promise;
  readonly #exit = Promise.withResolvers<number>();
  readonly #pod: FakePod;
  readonly #name: string;
  stdinClosed = 0;
  kills = 0;
  /** Whether its sinks take all before it ends. */
  readers = true;

  constructor(pod: FakePod, name: string, output: ProcessOutput) {
    this.#pod = pod;
    this.#name = name;
    this.output = output;
    this.exited = this.#exit.promise;
    this.exited.catch(() => undefined);
  }

  exit(status: number): void {
    if (this.readers) this.copying.resolve();
    this.#exit.resolve(status);
  }

  killed(): void {
    this.kills++;
  }

  lose(code: SandboxErrorCode): void {
    if (this.readers) this.copying.resolve();
    this.#exit.reject(new SandboxError(code, `WaitProcess: ${code}`));
  }

  async writeStdin(bytes: Uint8Array): Promise<void> {
    await this.#pod.ask("writeStdin", this.#name);
    this.input.push(bytes);
  }

  async closeStdin(): Promise<void> {
    await this.#pod.ask("closeStdin", this.#name);
    this.stdinClosed++;
  }

  async resize(rows: number, columns: number): Promise<void> {
    await this.#pod.ask("resize", this.#name);
    this.sizes.push(`${rows}x${columns}`);
  }

  async signal(signal: number): Promise<void> {
    await this.#pod.ask("signal", `${this.#name} ${signal}`);
    if (signal === 9) this.exit(137);
  }
}

/** A pod without a machine. */
export class FakePod implements Pod, Scripted {
  readonly pid = 4242;
  readonly calls: string[] = [];
  readonly answers: Map<string, () => unknown> = new Map();
  readonly processes: Map<string, FakeProcess> = new Map();
  readonly requests: ContainerRequest[] = [];
  readonly outOfMemory: PromiseWithResolvers<string>[] = [];
  readonly exited: Promise<MachineExit>;
  /** Exit status of processes that end as soon as they run. */
  instant: number | undefined;
  dead = false;
  readonly #exit = Promise.withResolvers<MachineExit>();
  /** Also those whose name another has by now. */
  readonly #all: FakeProcess[] = [];

  constructor() {
    this.exited = this.#exit.promise;
  }

  /** Asks, in the test's name. */
  async ask(name: string, rest = ""): Promise<unknown> {
    this.calls.push(`${name} ${rest}`.trim());
    const answer = await this.answers.get(name)?.();
    if (answer instanceof Error) throw answer;
    if (this.dead) throw closed(name);
    return answer;
  }

  async createContainer(request: ContainerRequest): Promise<PodContainer> {
    this.requests.push(request);
    await this.ask("create", request.id);
    return this.#container(request.id);
  }

  async nextOutOfMemory(): Promise<string> {
    const next = Promise.withResolvers<string>();
    this.outOfMemory.push(next);
    return next.promise;
  }

  async stop(): Promise<void> {
    await this.ask("stop").catch(() => undefined);
    this.die({ kind: "stopped", exitCode: 0, signal: null });
  }

  /** The machine ends. */
  die(exit: MachineExit = { kind: "killed", exitCode: null, signal: "SIGKILL" }): void {
    if (this.dead) return;
    this.dead = true;
    for (const process of this.#all) process.lose("ERR_SANDBOX_CLOSED");
    this.#exit.resolve(exit);
  }

  #container(id: string): PodContainer {
    const run = (name: string, output: ProcessOutput): GuestProcess => {
      const process = new FakeProcess(this, name, output);
      this.processes.set(name, process);
      this.#all.push(process);
      if (this.instant !== undefined) process.exit(this.instant);
      if (this.dead) process.lose("ERR_SANDBOX_CLOSED");
      // The class has private members; what a task uses of it is all here.
      return process as unknown as GuestProcess;
    };
    return {
      id,
      start: async (output) => {
        await this.ask("start", id);
        return run(id, output);
      },
      exec: async (execId, process, output) => {
        await this.ask("exec", `${id} ${execId} ${JSON.stringify(process)}`);
        return run(execId, output);
      },
      signal: async (signal, all) => {
        await this.ask("signal", `${id} ${signal}${all ? " all" : ""}`);
        if (signal === 9) this.processes.get(id)?.exit(137);
      },
      pause: async () => void (await this.ask("pause", id)),
      resume: async () => void (await this.ask("resume", id)),
      update: async (resources) => void (await this.ask("update", `${id} ${JSON.stringify(resources)}`)),
      stats: async () => (await this.ask("stats", id)) as StatsContainerResponse,
      remove: async () => {
        await this.ask("remove", id);
        this.processes.get(id)?.exit(137);
      },
    };
  }
}

/** The error of a connection that has ended. */
export function closed(what: string): SandboxError {
  return new SandboxError("ERR_SANDBOX_CLOSED", `${what}: the connection is closed`);
}

/** Streams of a fake process. */
export class FakeStreams implements TaskStreams {
  readonly stdout: ByteSink | undefined;
  readonly stderr: ByteSink | undefined;
  readonly stdin: AsyncIterable<Uint8Array> | undefined;
  readonly names: StreamNames;
  readonly written: string[] = [];
  closed = 0;
  /** What closing waits for. */
  closing: Promise<void> = Promise.resolve();
  readonly #input: Uint8Array[] = [];
  #ended = false;
  #wake: () => void = () => undefined;

  constructor(names: StreamNames) {
    this.names = names;
    this.stdout = names.stdout === "" ? undefined : this.#sink("out");
    this.stderr = names.stderr === "" ? undefined : this.#sink("err");
    this.stdin = names.stdin === "" ? undefined : this.#read();
  }

  type(text: string): void {
    this.#input.push(new TextEncoder().encode(text));
    this.#wake();
  }

  closeStdin(): void {
    this.#ended = true;
    this.#wake();
  }

  async close(): Promise<void> {
    this.closed++;
    this.closeStdin();
    await this.closing;
  }

  #sink(name: string): ByteSink {
    return { write: async (bytes) => void this.written.push(`${name}: ${new TextDecoder().decode(bytes)}`) };
  }

  async *#read(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const chunk = this.#input.shift();
      if (chunk !== undefined) yield chunk;
      else if (this.#ended) return;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

/** An event as it was published. */
export interface SeenEvent {
  readonly topic: EventTopic;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** A shim's task service with everything around it faked, and a client of it over ttRPC. */
export class World {
  readonly timer: ManualTimer = new ManualTimer();
  readonly events: SeenEvent[] = [];
  /** The latest of each name, and all. */
  readonly streams: Map<string, FakeStreams> = new Map();
  readonly allStreams: FakeStreams[] = [];
  readonly logs: string[] = [];
  readonly pods: FakePod[] = [];
  readonly configPaths: (string | undefined)[] = [];
  /** What opening a pod waits for or fails with. */
  opening: () => unknown = () => undefined;
  openStreams: (names: StreamNames) => Promise<FakeStreams> = async (names) => new FakeStreams(names);
  flushing: Promise<void> = Promise.resolve();
  ended = false;
  readonly service: TaskService;
  readonly client: TtrpcClient;

  constructor(options: Partial<TaskServiceOptions> = {}) {
    const opener: PodOpener = {
      open: async (_request, configPath) => {
        this.configPaths.push(configPath);
        const pod = new FakePod();
        this.pods.push(pod);
        const answer = await this.opening();
        if (answer instanceof Error) throw answer;
        return pod;
      },
    };
    const events: EventPublisher = {
      publish: (topic, schema, event) => {
        // Throws if a field does not fit.
        encodeMessage(schema, event);
        this.events.push({ topic, fields: event as Readonly<Record<string, unknown>> });
      },
      flushed: () => this.flushing,
    };
    this.service = new TaskService({
      pods: opener,
      openStreams: async (names, { containerId, execId }) => {
        const streams = await this.openStreams(names);
        this.streams.set(execId === "" ? containerId : execId, streams);
        this.allStreams.push(streams);
        return streams;
      },
      events,
      host: { cgroupVersion: 2, usage: async () => ({ userTime: 3_000_000n, systemTime: 1_000_000n, memory: 4096n, threads: 7n }) },
      shimPid: 99,
      clock: { now: () => this.timer.now },
      timer: this.timer,
      logger: { log: (level, message) => void this.logs.push(`${level}: ${message}`) },
      ...options,
    });
    void this.service.ended.then(() => {
      this.ended = true;
    });
    this.client = this.connect();
  }

  /** Another connection. */
  connect(): TtrpcClient {
    const [near, far] = memoryStreams();
    void serveTtrpc(far, this.service.services, { timer: this.timer });
    return new TtrpcClient(near, { timer: this.timer });
  }

  get pod(): FakePod {
    const pod = this.pods.at(-1);
    if (pod === undefined) throw new Error("no pod was opened");
    return pod;
  }

  /** Topics and ids of the events, e.g. `exit c1 x1 137`. */
  get story(): readonly string[] {
    return this.events.map(({ topic, fields }) => {
      const { containerId, execId, id, exitStatus } = fields as Readonly<Record<string, string | number | undefined>>;
      return [topic.replace("/tasks/", ""), containerId, execId ?? (id === containerId ? undefined : id), exitStatus].filter((part) => part !== undefined).join(" ");
    });
  }

  process(name: string): FakeProcess {
    const process = this.pod.processes.get(name);
    if (process === undefined) throw new Error(`nothing runs as ${name}`);
    return process;
  }

  async create(id: string, more: MessageInitShape<typeof taskApi.CreateTaskRequestSchema> = {}): Promise<number> {
    return (await this.client.unary(taskApi.Task.method.create, { id, bundle: `/bundles/${id}`, ...more })).pid;
  }

  async start(id: string, execId = ""): Promise<number> {
    return (await this.client.unary(taskApi.Task.method.start, { id, execId })).pid;
  }

  /** Creates and starts. */
  async run(id: string, more: MessageInitShape<typeof taskApi.CreateTaskRequestSchema> = {}): Promise<void> {
    await this.create(id, more);
    await this.start(id);
  }

  async exec(id: string, execId: string, more: Partial<StreamNames> = {}): Promise<void> {
    const spec = { typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", value: new TextEncoder().encode('{"args":["true"]}') };
    await this.client.unary(taskApi.Task.method.exec, { id, execId, spec, ...more });
  }

  async wait(id: string, execId = ""): Promise<number> {
    return (await this.client.unary(taskApi.Task.method.wait, { id, execId })).exitStatus;
  }

  async kill(id: string, signal: number, execId = "", all = false): Promise<void> {
    await this.client.unary(taskApi.Task.method.kill, { id, execId, signal, all });
  }

  async delete(id: string, execId = ""): Promise<taskApi.DeleteResponse> {
    return this.client.unary(taskApi.Task.method.delete, { id, execId });
  }

  async state(id: string, execId = ""): Promise<taskApi.StateResponse> {
    return this.client.unary(taskApi.Task.method.state, { id, execId });
  }

  async status(id: string, execId = ""): Promise<string> {
    const { status } = await this.state(id, execId);
    return Object.entries(taskApi.Status).find(([, number]) => number === status)?.[0] ?? String(status);
  }

  async shutdown(): Promise<void> {
    await this.client.unary(taskApi.Task.method.shutdown, { id: "any" });
  }
}

/** Status and text that a call was answered with instead of success. */
export async function failure(call: Promise<unknown>): Promise<{ readonly code: number; readonly message: string }> {
  try {
    await call;
  } catch (error) {
    if (error instanceof TtrpcError) return error.status;
    throw error;
  }
  throw new Error("the call succeeded, expected an error");
}
