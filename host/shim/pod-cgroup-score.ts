import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { asObject, type JsonObject, type Logger, messageOf } from "@sealpod/core";

/** Range of `oom_score_adj`: -1000 is never ended when memory is short, 1000 first. */
const RANGE = { least: -1000, most: 1000 } as const;

/** Processes below the machine's own that are told, too, and how deep: where pods are processes, the agent is one. */
const BELOW = { processes: 16, levels: 4 } as const;

/** How readily the kernel is to end a container when memory is short (`process.oomScoreAdj`); undefined if its specification does not say. */
export function oomScoreOf(spec: JsonObject): number | undefined {
  const value = asObject(spec["process"])?.["oomScoreAdj"];
  const isScore = typeof value === "number" && Number.isInteger(value) && value >= RANGE.least && value <= RANGE.most;
  return isScore ? value : undefined;
}

/**
 * How readily the kernel ends a pod when memory is short. Without this, a pod would inherit the place of containerd, which is ended last (-999).
 *
 * Of a sandbox CRI says nothing about its pod: its value is that of a process that only sleeps (-998). That of the machine, in which all containers of
 * the pod are, is the least of theirs: the kubelet gives the lower ones to those that asked for more of the memory, of which the machine is the sum.
 * The shim has the same, since the machine ends with it, and of two equals the kernel ends the larger.
 */
export class OomScore {
  readonly #logger: Logger;
  readonly #proc: string;
  #first: number | undefined;
  #score: number | undefined;

  /** @param proc where the kernel shows processes */
  constructor(logger: Logger, proc = "/proc") {
    this.#logger = logger;
    this.#proc = proc;
  }

  /** Before anything is started, which then begins with it. Never below what the shim was started with. @param score of the first container */
  async begin(score = 0): Promise<void> {
    this.#first = Number.parseInt(await this.#read("self"), 10) || 0;
    if (score > this.#first) await this.#write("self", score);
  }

  /** Another container of the pod is about to be made. @param machine its process */
  async add(score: number | undefined, machine: number): Promise<void> {
    if (score === undefined || (this.#score !== undefined && this.#score <= score)) return;
    this.#score = score;
    const value = Math.max(score, this.#first ?? RANGE.least);
    const before = await this.#read(String(machine));
    const told = ["self", String(machine), ...(await this.#below(String(machine), before, BELOW.levels)).slice(0, BELOW.processes)];
    for (const pid of told) await this.#write(pid, value);
  }

  /** Processes below one that have what it has: containers have their own. */
  async #below(pid: string, score: string, levels: number): Promise<readonly string[]> {
    if (levels === 0) return [];
    const children = await readFile(join(this.#proc, pid, "task", pid, "children"), "latin1").catch(() => "");
    const found: string[] = [];
    for (const child of (children.match(/[0-9]+/g) ?? []).slice(0, BELOW.processes)) {
      if ((await this.#read(child)) === score) found.push(child, ...(await this.#below(child, score, levels - 1)));
    }
    return found;
  }

  #read(pid: string): Promise<string> {
    return readFile(this.#path(pid), "latin1").then(
      (text) => text.trim(),
      () => "",
    );
  }

  /** Lower than before needs a right that a node in a container lacks: the pod is then ended more readily than it may be. */
  async #write(pid: string, score: number): Promise<void> {
    await writeFile(this.#path(pid), String(score)).catch((error: unknown) =>
      this.#logger.log("debug", "cannot say how readily the pod is ended when memory is short", { process: pid, score, reason: messageOf(error) }),
    );
  }

  #path(pid: string): string {
    return join(this.#proc, pid, "oom_score_adj");
  }
}
