import { NOW } from "../testdata/emulated.ts";
import { DEFAULT_KDS_PATIENCE, type KdsPorts } from "./http.ts";

/** A request that a {@link ScriptedNetwork} got. */
export interface ScriptedRequest {
  readonly url: string;
  readonly init: RequestInit;
}

/** What a script answers with. */
export type ScriptedAnswer = Response | Promise<Response> | Error;

/** A network in memory, with a clock that only waiting moves. */
export class ScriptedNetwork {
  readonly requests: ScriptedRequest[] = [];
  /** Waits between attempts, in milliseconds; time limits are not among them. */
  readonly waits: number[] = [];
  now: number = NOW;
  /** Each byte that randomness gives. */
  randomByte = 0;
  readonly #answer: (url: string, nth: number) => ScriptedAnswer;
  readonly #limits = new Set<() => void>();

  constructor(answer: (url: string, nth: number) => ScriptedAnswer) {
    this.#answer = answer;
  }

  readonly clock: { now(): number } = { now: () => this.now };
  readonly random: { bytes(length: number): Uint8Array } = { bytes: (length) => new Uint8Array(length).fill(this.randomByte) };

  readonly fetch = async (url: string, init: RequestInit): Promise<Response> => {
    this.requests.push({ url, init });
    const answer = this.#answer(url, this.requests.length - 1);
    if (answer instanceof Error) throw answer;
    return answer;
  };

  readonly sleep = async (ms: number, signal: AbortSignal): Promise<void> => {
    if (ms === DEFAULT_KDS_PATIENCE.timeoutMs) {
      const limit = Promise.withResolvers<void>();
      this.#limits.add(limit.resolve);
      signal.addEventListener("abort", () => limit.resolve());
      return limit.promise;
    }
    this.waits.push(ms);
    this.now += ms;
  };

  /** The network as the ports of a client. */
  readonly ports: KdsPorts = { fetch: this.fetch, clock: this.clock, random: this.random, sleep: this.sleep };

  /** Something that never comes: all time limits are over at once. */
  async never<T>(): Promise<T> {
    queueMicrotask(() => {
      for (const over of this.#limits) over();
    });
    return new Promise<T>(() => undefined);
  }

  /** Paths with query of the requests. */
  get paths(): readonly string[] {
    return this.requests.map(({ url }) => url.slice(new URL(url).origin.length));
  }
}

/** A 200 with a body. */
export function ok(body: Uint8Array | string): Response {
  return new Response(typeof body === "string" ? body : new Uint8Array(body));
}

/** A status with headers and no body. */
export function status(code: number, headers: Readonly<Record<string, string>> = {}): Response {
  return new Response(null, { status: code, headers });
}
