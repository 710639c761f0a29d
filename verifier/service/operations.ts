import { messageOf, type Logger } from "@sealpod/core";
import { Metrics } from "./metrics.ts";

/** Milliseconds that a check may take: the kubelet's probes give up after one second by default, people set five. */
const CHECK_TIME = 5000;

/** Throws, or rejects, if what it looks at does not hold. */
export type ReadyCheck = (signal: AbortSignal) => void | Promise<void>;

/** An answer to those who run the service. */
export interface OperationsAnswer {
  readonly status: 200 | 503;
  /** Media type. */
  readonly type: string;
  readonly text: string;
}

/** Whether a service is ready. */
export class Readiness {
  readonly #checks: Readonly<Record<string, ReadyCheck>>;
  readonly #logger: Logger;
  readonly #tellsWhy: boolean;
  #isRetired = false;
  #last = "";
  #running: Promise<OperationsAnswer> | undefined;

  /** @param tellsWhy whether the answer has the checks' messages; the log has them always */
  constructor(checks: Readonly<Record<string, ReadyCheck>>, logger: Logger, tellsWhy: boolean) {
    this.#checks = checks;
    this.#logger = logger;
    this.#tellsWhy = tellsWhy;
  }

  /** From now on the answer is no. */
  retire(): void {
    this.#isRetired = true;
  }

  /** Runs the checks; who asks while they run gets the same answer, so that asking often costs nothing. */
  async answer(): Promise<OperationsAnswer> {
    if (this.#isRetired) return { status: 503, type: "application/json", text: `${JSON.stringify({ status: "stopping" })}\n` };
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  async #run(): Promise<OperationsAnswer> {
    const results = await Promise.all(Object.entries(this.#checks).map(async ([name, check]) => ({ name, problem: await problemOf(check) })));
    const failed = results.filter(({ problem }) => problem !== undefined);
    const told = failed.map(({ name, problem }) => `${name}: ${problem ?? ""}`).join("; ");
    if (told !== this.#last) this.#logger.log(told === "" ? "info" : "warn", told === "" ? "ready again" : "not ready", told === "" ? {} : { problem: told });
    this.#last = told;
    const checks = Object.fromEntries(
      results.map(({ name, problem }) => [name, problem === undefined ? { ok: true } : { ok: false, ...(this.#tellsWhy ? { problem } : {}) }]),
    );
    const status = failed.length === 0 ? 200 : 503;
    return { status, type: "application/json", text: `${JSON.stringify({ status: status === 200 ? "ready" : "not ready", checks })}\n` };
  }
}

async function problemOf(check: ReadyCheck): Promise<string | undefined> {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => {
      controller.abort(new Error("the check's time is over"));
      resolve(`no result within ${CHECK_TIME} milliseconds`);
    }, CHECK_TIME);
  });
  try {
    const run = async (): Promise<undefined> => {
      await check(controller.signal);
      return undefined;
    };
    return await Promise.race([run(), late]);
  } catch (error) {
    return messageOf(error);
  } finally {
    clearTimeout(timer);
  }
}

/** The answer to `/healthz`, `/readyz` or `/metrics`; undefined for other paths. */
export async function operate(path: string, metrics: Metrics, readiness: Readiness): Promise<OperationsAnswer | undefined> {
  switch (path) {
    case "/healthz":
      return { status: 200, type: "application/json", text: '{"status":"alive"}\n' };
    case "/readyz":
      return readiness.answer();
    case "/metrics":
      return { status: 200, type: Metrics.contentType, text: metrics.text() };
    default:
      return undefined;
  }
}
