/**
 * The other end of bench/load.ts: the process of a service answers its parent over IPC, first how it started, then its CPU time and the ceiling of its core when asked.
 */
import type { Ceiling, Question, Usage } from "./load.ts";

/** Answers the parent from now on. @param once the cryptography of one request @param stop ends the service */
export function answerParent(once: () => void, stop: () => Promise<void>): void {
  process.on("message", (question: Question) => {
    switch (question.kind) {
      case "usage":
        tellParent({ cpu: cpuTime() } satisfies Usage);
        break;
      case "ceiling":
        tellParent(ceiling(once, question.milliseconds));
        break;
      case "stop":
        void stop().then(() => process.disconnect());
        break;
    }
  });
}

export function tellParent(message: object): void {
  process.send?.(message);
}

function cpuTime(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

function ceiling(once: () => void, milliseconds: number): Ceiling {
  const [cpu, wall] = [cpuTime(), performance.now()];
  let count = 0;
  for (; performance.now() - wall < milliseconds; count++) once();
  return { count, cpu: cpuTime() - cpu, wall: (performance.now() - wall) * 1000 };
}
