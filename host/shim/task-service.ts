import { isAbsolute } from "node:path";
import { isSealpodError, messageOf, silentLogger, unlessAborted, type Clock, type Logger } from "@sealpod/core";
import { parseMessage, runtimeOptionsApi, taskApi, taskEventsApi, type Any } from "@sealpod/proto";
import { STATUS, implement, statusError, systemTimer, type CallContext, type Timer, type TtrpcService } from "@sealpod/ttrpc";
import { ShimError } from "./errors.ts";
import { guestMetrics, machineMetrics, NO_USAGE, type HostMetrics, type StatsAny } from "./metrics.ts";
import { PodKeeper } from "./pod-keeper.ts";
import type { ContainerRequest, Pod, PodContainer, PodOpener, StreamNames, TaskStreams } from "./pod.ts";
import type { EventPublisher } from "./publisher.ts";
import { taskError } from "./status.ts";
import { KILLED, TaskProcess, type ProcessExit } from "./task-process.ts";
import { Task } from "./task.ts";
import { endsWithin, pause, within } from "./time-limit.ts";
import { ZERO_TIME, timestamp, type TimestampInit } from "./timestamp.ts";

/** Name of the service for containerd 2 and later, which has the same messages. */
const TASK_V3 = "containerd.task.v3.Task";

/**
 * Milliseconds for a guest to take a signal. A guest is not trusted to let itself be ended: after a SIGKILL the machine is ended instead, with all of the
 * pod's containers, whichever the signal was for. An agent that leaves one request so long without an answer is broken, and the host has no other means.
 */
const SIGNAL_LIMIT = 30_000;

/** Milliseconds for a guest's statistics: containerd asks one container after the other, and must not wait for one that hangs. */
const STATS_LIMIT = 5000;

/** Milliseconds that events may hold up the end of the shim. */
const FLUSH_LIMIT = 5000;

/** Milliseconds between two questions whether memory ran out: the guest says when, and how often. */
const OUT_OF_MEMORY_PAUSE = 100;

/**
 * Milliseconds after a report that a container's memory ran out in which further ones of it are dropped, at first and at last: it doubles with each report.
 * containerd notes of a container that it happened, not how often.
 */
const FIRST_SILENCE = 1000;
const LAST_SILENCE = 10 * 60_000;

/** Levels of nesting and bytes of an exec's specification; the arguments of a program have 128 KiB each. */
const MAX_JSON = 4 * 1024 * 1024;

const SIGKILL = 9;

/** Opens the streams that containerd named for a process; the exec id is empty for the container's own. */
export type StreamOpener = (names: StreamNames, process: { readonly containerId: string; readonly execId: string }) => Promise<TaskStreams>;

/** Options of {@link TaskService}. */
export interface TaskServiceOptions {
  readonly pods: PodOpener;
  readonly openStreams: StreamOpener;
  readonly events: EventPublisher;
  readonly host: HostMetrics;
  /** The shim's own process id. */
  readonly shimPid: number;
  readonly clock: Clock;
  readonly timer?: Timer;
  readonly logger?: Logger;
}

/** What an exec is to run, kept until it is started. */
type Specification = Readonly<Record<string, unknown>>;

/**
 * The tasks of one shim, over ttRPC (specs/runtime.md 5.3): the first Create makes the pod, and with the end of the task that it made the pod ends.
 * Every call is answered within bounded time, but for Wait and for a CloseIO whose process does not read.
 */
export class TaskService {
  /** The same calls under the name of each version. */
  readonly services: readonly TtrpcService[];
  /** Resolves when containerd has asked for the first task. */
  readonly used: Promise<void>;
  /**
   * Resolves when the shim is to end: Shutdown came, no task is left, the pod has ended. The answer to that Shutdown is written just after it;
   * containerd takes the end of the connection for one as well.
   */
  readonly ended: Promise<void>;
  readonly #options: TaskServiceOptions;
  readonly #timer: Timer;
  readonly #logger: Logger;
  readonly #keeper: PodKeeper;
  readonly #tasks = new Map<string, Task>();
  /** Tasks that are being made. */
  readonly #creating = new Map<string, { abandoned: boolean }>();
  readonly #specifications = new WeakMap<TaskProcess, Specification>();
  readonly #used = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<void>();
  /** Id of the task whose end is that of the pod. */
  #root: string | undefined;
  #shutDown: Promise<void> | undefined;
  /** What the guest said last of each task: counters that fall back to zero for a moment would count twice. */
  readonly #lastStats = new WeakMap<Task, StatsAny>();
  #statsDenied = false;
  /** When it was last told that a task's memory ran out, and for how long it is not told again. */
  readonly #outOfMemory = new WeakMap<Task, { readonly at: number; readonly silence: number }>();
  #watchesMemory = false;

  constructor(options: TaskServiceOptions) {
    this.#options = options;
    this.#timer = options.timer ?? systemTimer;
    this.#logger = options.logger ?? silentLogger;
    this.#keeper = new PodKeeper({ opener: options.pods, timer: this.#timer, logger: this.#logger });
    this.used = this.#used.promise;
    this.ended = this.#ended.promise;
    this.#keeper.over.addEventListener("abort", () => this.#endTasks(), { once: true });
    const service = this.#implement();
    this.services = [service, { name: TASK_V3, invoke: (method, payload, context) => service.invoke(method, payload, context) }];
  }

  /** True while there is no task, and none is being made. */
  get idle(): boolean {
    return this.#tasks.size === 0 && this.#creating.size === 0;
  }

  /** Ends the pod with all that is in it, whoever still wants it, and then {@link ended} resolves. */
  async stop(): Promise<void> {
    this.#shutDown ??= this.#end();
    await this.#shutDown;
  }

  #implement(): TtrpcService {
    type Answer<I, O> = (request: I, context: CallContext) => Promise<O>;
    const answer = <I extends { readonly id: string; readonly execId?: string }, O>(work: Answer<I, O>): Answer<I, O> => {
      return async (request, context) => {
        try {
          return await work(request, context);
        } catch (error) {
          const level = isSealpodError(error) ? "info" : "error";
          const code = isSealpodError(error) ? error.code : undefined;
          // A caller that has gone gets no answer, and nothing is wrong.
          if (!context.signal.aborted) {
            this.#logger.log(level, "request failed", { method: context.method, id: request.id, exec: request.execId, code, error: messageOf(error) });
          }
          throw taskError(error);
        }
      };
    };
    const empty = <I extends { readonly id: string; readonly execId?: string }>(work: (request: I) => Promise<unknown>): Answer<I, object> => {
      return answer(async (request) => {
        await work(request);
        return {};
      });
    };
    return implement(taskApi.Task, {
      create: answer(async (request: taskApi.CreateTaskRequest) => ({ pid: await this.#create(request) })),
      start: answer(async (request: taskApi.StartRequest) => ({ pid: await this.#start(request.id, request.execId) })),
      state: answer(async (request: taskApi.StateRequest) => this.#state(request.id, request.execId)),
      wait: answer(async (request: taskApi.WaitRequest, context) => {
        const exit = await this.#task(request.id).process(request.execId).wait(context.signal);
        return { exitStatus: exit.status, exitedAt: timestamp(exit.at) };
      }),
      kill: empty((request: taskApi.KillRequest) => this.#kill(request)),
      delete: answer(async (request: taskApi.DeleteRequest) => {
        const { exit, pid } = await this.#delete(request.id, request.execId);
        return { pid, exitStatus: exit.status, exitedAt: timestamp(exit.at) };
      }),
      exec: empty(async (request: taskApi.ExecProcessRequest) => this.#exec(request)),
      resizePty: empty(({ id, execId, width, height }: taskApi.ResizePtyRequest) => this.#task(id).process(execId).resize(height, width)),
      closeIO: empty(async ({ id, execId, stdin }: taskApi.CloseIORequest) => {
        const process = this.#task(id).process(execId);
        if (stdin) await process.closeStdin();
      }),
      // containerd takes a task without processes for one that its shim has lost.
      pids: answer(async (request: taskApi.PidsRequest) => ({ processes: [{ pid: this.#task(request.id).pid }] })),
      connect: answer(async (request: taskApi.ConnectRequest) => {
        return { shimPid: this.#options.shimPid, taskPid: this.#tasks.get(request.id)?.pid ?? 0, version: "" };
      }),
      stats: answer(async (request: taskApi.StatsRequest) => ({ stats: await this.#stats(this.#task(request.id)) })),
      update: empty(async (request: taskApi.UpdateTaskRequest) => {
        await this.#task(request.id).update(parseObject("the resources", request.resources));
      }),
      pause: empty((request: taskApi.PauseRequest) => this.#task(request.id).pause()),
      resume: empty((request: taskApi.ResumeRequest) => this.#task(request.id).resume()),
      checkpoint: empty(async (_request: taskApi.CheckpointTaskRequest) => {
        throw statusError(STATUS.unimplemented, "a confidential container cannot be saved: its memory does not leave the machine");
      }),
      shutdown: empty(async (_request: taskApi.ShutdownRequest) => {
        // It comes after each container of a pod.
        if (this.idle) await this.stop();
      }),
    });
  }

  #task(id: string): Task {
    const task = this.#tasks.get(id);
    if (task === undefined) throw new ShimError("ERR_SHIM_NOT_FOUND", `there is no task ${id}`);
    return task;
  }

  async #create(request: taskApi.CreateTaskRequest): Promise<number> {
    const { id, bundle } = request;
    this.#used.resolve();
    if (id === "" || !isAbsolute(bundle))
      throw new ShimError("ERR_SHIM_USAGE", `a task needs an id and the absolute path of a bundle, found "${id}" and "${bundle}"`);
    if (request.checkpoint !== "") throw statusError(STATUS.unimplemented, "a confidential container cannot be restored from a checkpoint");
    if (this.#shutDown !== undefined) throw new ShimError("ERR_SHIM_STATE", "the shim is about to end");
    if (this.#tasks.has(id) || this.#creating.has(id)) throw new ShimError("ERR_SHIM_EXISTS", `there is a task ${id} already`);
    const attempt = { abandoned: false };
    this.#creating.set(id, attempt);
    const isRoot = this.#keeper.empty;
    if (isRoot) this.#root = id;
    const init = this.#process(id, "", request);
    let made: Promise<PodContainer> | undefined;
    try {
      const configPath = optionsPath(request.options);
      await init.open();
      const container: ContainerRequest = { id, bundle, rootfs: request.rootfs };
      const pod = await this.#keeper.open(container, configPath);
      this.#watchMemory(pod);
      made = pod.createContainer(container);
      const task = new Task({
        id,
        bundle,
        init,
        container: await unlessAborted(made, this.#keeper.over),
        pid: pod.pid,
        events: this.#options.events,
        timer: this.#timer,
        logger: this.#logger,
      });
      // The machine's end may have been reported to all tasks just before this one was one.
      this.#keeper.over.throwIfAborted();
      if (attempt.abandoned) throw statusError(STATUS.aborted, `task ${id} was deleted while it was made`);
      this.#tasks.set(id, task);
    } catch (error) {
      // What comes of it later is of no use to anyone.
      made?.then((container) => container.remove()).catch(() => undefined);
      await init.discard();
      if (isRoot && this.#root === id) void this.#keeper.stop();
      throw error;
    } finally {
      if (this.#creating.get(id) === attempt) this.#creating.delete(id);
    }
    const { rootfs, terminal, stdin, stdout, stderr } = request;
    this.#options.events.publish("/tasks/create", taskEventsApi.TaskCreateSchema, {
      containerId: id,
      bundle,
      rootfs,
      io: { stdin, stdout, stderr, terminal },
      pid: this.#keeper.pid,
    });
    return this.#keeper.pid;
  }

  async #start(id: string, execId: string): Promise<number> {
    const task = this.#task(id);
    if (execId === "") await task.start();
    else await task.startExec(execId, this.#specifications.get(task.process(execId)));
    return task.pid;
  }

  #exec(request: taskApi.ExecProcessRequest): void {
    const { id, execId } = request;
    const task = this.#task(id);
    if (execId === "") throw new ShimError("ERR_SHIM_USAGE", "a process needs an id");
    const process = this.#process(id, execId, request);
    this.#specifications.set(process, { ...parseObject("the process", request.spec), terminal: request.terminal });
    task.addExec(execId, process);
  }

  #state(id: string, execId: string): StateInit {
    const task = this.#task(id);
    const { names, exit } = task.process(execId);
    return {
      id,
      execId,
      bundle: task.bundle,
      pid: task.pid,
      status: task.status(execId),
      ...names,
      exitStatus: exit?.status ?? 0,
      exitedAt: exit === undefined ? ZERO_TIME : timestamp(exit.at),
    };
  }

  async #kill(request: taskApi.KillRequest): Promise<void> {
    const { id, execId, signal, all } = request;
    const task = this.#task(id);
    const ends = execId === "" && signal === SIGKILL;
    const root = id === this.#root;
    try {
      await within(this.#timer, SIGNAL_LIMIT, "the guest did not take the signal", this.#unlessOver(task.kill(execId, signal, all)));
    } catch (error) {
      const code = isSealpodError(error) ? error.code : undefined;
      const { status } = taskError(error);
      // Who owns the node may end what runs on it, whether the guest hears of it, and whether the policy likes it. A policy that forbids the end of one
      // container does not cost the others their lives.
      const deaf = status.code === STATUS.deadlineExceeded || code === "ERR_SANDBOX_CLOSED";
      const gone = status.code === STATUS.notFound || code === "ERR_SHIM_STATE";
      if (!ends || gone || !(root || deaf)) throw error;
      const others = this.#tasks.size - 1;
      this.#logger.log("warn", "the guest does not end a container: the whole pod is ended", { id, sandbox: root, others, error: messageOf(error) });
      void this.#keeper.stop();
      return;
    }
    if (ends && root) void this.#endSlow(task);
  }

  /** A guest that took the signal and lets the sandbox run on is ended, too. */
  async #endSlow(task: Task): Promise<void> {
    if (await endsWithin(this.#timer, SIGNAL_LIMIT, task.init.over)) return;
    this.#logger.log("warn", "the sandbox runs on after SIGKILL: the pod is ended", { id: task.id });
    await this.#keeper.stop();
  }

  /** The work. If the machine ends first the guest cannot answer any more, and what was to end has ended. */
  async #unlessOver(work: Promise<void>): Promise<void> {
    const { over } = this.#keeper;
    if (over.aborted) return work;
    await unlessAborted(work, over).catch((error: unknown) => {
      if (error !== over.reason) throw error;
    });
  }

  async #delete(id: string, execId: string): Promise<{ readonly exit: ProcessExit; readonly pid: number }> {
    const creating = this.#creating.get(id);
    if (creating !== undefined && execId === "") {
      // containerd gave the creation up; to it there was no task.
      creating.abandoned = true;
      this.#creating.delete(id);
    }
    const task = this.#task(id);
    if (execId !== "") return { exit: await task.deleteExec(execId), pid: task.pid };
    await task.assertDeletable();
    // Two may have waited.
    if (this.#tasks.get(id) !== task) throw new ShimError("ERR_SHIM_NOT_FOUND", `there is no task ${id}`);
    this.#tasks.delete(id);
    // With the first task the pod ends, and everything in the guest; nobody waits for that here.
    const exit = await task.delete(id !== this.#root && this.#keeper.end === undefined);
    return { exit, pid: task.pid };
  }

  async #stats(task: Task): Promise<StatsAny> {
    // containerd passes over tasks that are not there, and complains of any other error.
    if (task.init.phase === "stopped") throw new ShimError("ERR_SHIM_NOT_FOUND", `task ${task.id} has ended: it uses nothing`);
    const { host } = this.#options;
    const stats = (await this.#guestStats(task)) ?? this.#lastStats.get(task);
    if (stats !== undefined) return stats;
    // The kubelet adds up the containers of a pod: the machine counts once.
    return machineMetrics(task.id === this.#root ? await host.usage(task.pid) : NO_USAGE, host.cgroupVersion);
  }

  async #guestStats(task: Task): Promise<StatsAny | undefined> {
    if (this.#statsDenied || this.#keeper.end !== undefined) return undefined;
    try {
      const stats = await within(this.#timer, STATS_LIMIT, "the guest gave no statistics", unlessAborted(task.container.stats(), this.#keeper.over));
      const metrics = guestMetrics(stats, this.#options.host.cgroupVersion);
      if (metrics !== undefined) this.#lastStats.set(task, metrics);
      return metrics;
    } catch (error) {
      // It will say the same each time, and it is asked every few seconds.
      this.#statsDenied = isSealpodError(error) && error.code === "ERR_SANDBOX_DENIED";
      const message = this.#statsDenied
        ? "the policy hides statistics: the sandbox shows the machine's from here on, and other containers show none"
        : "the guest gives no statistics of a container";
      this.#logger.log(this.#statsDenied ? "warn" : "debug", message, { id: task.id, error: messageOf(error) });
      return undefined;
    }
  }

  #process(id: string, execId: string, names: StreamNames): TaskProcess {
    const { stdin, stdout, stderr, terminal } = names;
    const init = execId === "";
    const streams = { stdin, stdout, stderr: terminal ? "" : stderr, terminal };
    return new TaskProcess({
      label: init ? `task ${id}` : `process ${execId} of task ${id}`,
      init,
      names: { stdin, stdout, stderr, terminal },
      openStreams: () => this.#options.openStreams(streams, { containerId: id, execId }),
      clock: this.#options.clock,
      timer: this.#timer,
      logger: this.#logger,
      listener: { started: () => this.#started(id, execId), exited: (exit, wasStarted) => this.#exited(id, execId, exit, wasStarted) },
    });
  }

  #started(id: string, execId: string): void {
    const { events } = this.#options;
    const { pid } = this.#keeper;
    if (execId === "") events.publish("/tasks/start", taskEventsApi.TaskStartSchema, { containerId: id, pid });
    else events.publish("/tasks/exec-started", taskEventsApi.TaskExecStartedSchema, { containerId: id, execId, pid });
  }

  #exited(id: string, execId: string, exit: ProcessExit, wasStarted: boolean): void {
    // A task that never ran ends all the same; another process that never ran was never there for anyone.
    if (execId === "" || wasStarted) {
      this.#options.events.publish("/tasks/exit", taskEventsApi.TaskExitSchema, {
        containerId: id,
        id: execId === "" ? id : execId,
        pid: this.#keeper.pid,
        exitStatus: exit.status,
        exitedAt: timestamp(exit.at),
      });
    }
    // After the event: the end of a machine takes its time.
    if (execId === "" && id === this.#root) void this.#keeper.stop();
  }

  #endTasks(): void {
    for (const task of this.#tasks.values()) task.end(KILLED);
  }

  #watchMemory(pod: Pod): void {
    if (this.#watchesMemory) return;
    this.#watchesMemory = true;
    const watch = async (): Promise<void> => {
      while (this.#keeper.end === undefined) {
        const id = await unlessAborted(pod.nextOutOfMemory(), this.#keeper.over);
        const task = this.#tasks.get(id);
        if (task !== undefined) this.#tellOutOfMemory(task);
        await pause(this.#timer, OUT_OF_MEMORY_PAUSE, this.#keeper.over);
      }
    };
    watch().catch((error: unknown) => {
      if (this.#keeper.end === undefined) this.#logger.log("info", "the guest does not tell when memory runs out", { error: messageOf(error) });
    });
  }

  #tellOutOfMemory(task: Task): void {
    const at = this.#options.clock.now();
    const before = this.#outOfMemory.get(task);
    // Either way, so that a clock that is set back does not silence it for long.
    const passed = before === undefined ? Infinity : Math.abs(at - before.at);
    if (before !== undefined && passed < before.silence) return;
    const silence = before === undefined || passed >= 2 * before.silence ? FIRST_SILENCE : Math.min(2 * before.silence, LAST_SILENCE);
    this.#outOfMemory.set(task, { at, silence });
    this.#options.events.publish("/tasks/oom", taskEventsApi.TaskOOMSchema, { containerId: task.id });
  }

  async #end(): Promise<void> {
    await this.#keeper.stop();
    this.#endTasks();
    if (!(await endsWithin(this.#timer, FLUSH_LIMIT, this.#options.events.flushed())))
      this.#logger.log("warn", "events are left that containerd has not taken");
    this.#ended.resolve();
  }
}

/** A State response. */
interface StateInit extends StreamNames {
  readonly id: string;
  readonly execId: string;
  readonly bundle: string;
  readonly pid: number;
  readonly status: taskApi.Status;
  readonly exitStatus: number;
  readonly exitedAt: TimestampInit;
}

/** Path of the configuration that a Create request names. Options of other runtimes are none of ours. @throws {ProtoError} */
function optionsPath(options: Any | undefined): string | undefined {
  const name = options?.typeUrl.slice(options.typeUrl.lastIndexOf("/") + 1);
  if (options === undefined || name !== runtimeOptionsApi.OptionsSchema.typeName) return undefined;
  const { configPath } = parseMessage(runtimeOptionsApi.OptionsSchema, options.value);
  return configPath === "" ? undefined : configPath;
}

/** The object that is JSON in an Any. @throws {ShimError} ERR_SHIM_USAGE */
function parseObject(what: string, any: Any | undefined): Specification {
  if (any === undefined) throw new ShimError("ERR_SHIM_USAGE", `${what}: there is none`);
  if (any.value.length > MAX_JSON) throw new ShimError("ERR_SHIM_USAGE", `${what}: ${any.value.length} bytes, expected at most ${MAX_JSON}`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(any.value));
  } catch (cause) {
    throw new ShimError("ERR_SHIM_USAGE", `${what} (${any.typeUrl}): not JSON: ${messageOf(cause)}`, { cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new ShimError("ERR_SHIM_USAGE", `${what}: not a JSON object`);
  return value as Specification;
}
