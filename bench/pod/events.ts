import type { ContainerdWorld, Program } from "../../conformance/containerd/test-support.ts";
import { until } from "../../conformance/containerd/until.ts";

/** What containerd tells of the pods of a world, with the times that those who told it wrote. */
export class PodEvents implements AsyncDisposable {
  readonly #program: Program;

  private constructor(program: Program) {
    this.#program = program;
  }

  static async open(world: ContainerdWorld): Promise<PodEvents> {
    const program = world.startCtr("--namespace", "k8s.io", "events");
    // Its subscription is announced by nothing but the first event; a label that is set again and again is one.
    await until(async () => {
      await world.ctr("--namespace", "k8s.io", "namespaces", "label", "k8s.io", "bench=pod");
      if (program.stdout === "") throw new Error("ctr shows no events");
    });
    return new PodEvents(program);
  }

  /** Waits for an event whose line has these words. @returns milliseconds since 1970 */
  async find(topic: string, words: string): Promise<number> {
    return until(() => {
      const line = this.#program.stdout.split("\n").find((each) => each.includes(` ${topic} `) && each.includes(words));
      if (line === undefined) throw new Error(`there was no ${topic} with ${words}`);
      const [, day = "", time = "", fraction = "0"] = /^(\S+) ([0-9:]+)(?:\.([0-9]+))? \+0000 UTC /.exec(line) ?? [];
      return Date.parse(`${day}T${time}Z`) + Number(`0.${fraction}`) * 1000;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#program.signal("SIGTERM");
    await this.#program.exited;
  }
}
