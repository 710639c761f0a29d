import { type KdsPorts, parseAzureCachePath, parseKdsPath, THIM_PATH } from "@sealpod/snp";
import { equalBytes } from "@sealpod/core";
import { NOW, type TestAmd, type TestChip } from "./amd.ts";

/** An answer, or what went wrong with the connection. */
export type Answer = Response | Error;

/** A network in memory, with a clock that only waiting moves. */
export class TestNetwork {
  /** Path and query of each request. */
  readonly paths: string[] = [];
  /** When each request came. */
  readonly times: number[] = [];
  readonly waits: number[] = [];
  now: number = NOW;
  answer: (path: string) => Answer | Promise<Answer>;

  constructor(answer: (path: string) => Answer | Promise<Answer>) {
    this.answer = answer;
  }

  readonly clock: { now(): number } = { now: () => this.now };
  readonly random: { bytes(length: number): Uint8Array } = { bytes: (length) => Uint8Array.from({ length }, (_, index) => (this.#count++ * 7 + index) & 255) };
  #count = 0;

  readonly fetch = async (url: string): Promise<Response> => {
    const path = url.slice(new URL(url).origin.length);
    this.paths.push(path);
    this.times.push(this.now);
    const answer = await this.answer(path);
    if (answer instanceof Error) throw answer;
    return answer;
  };

  /** Time limits never end here; waits take no time but on the clock. */
  readonly sleep = async (ms: number, signal: AbortSignal): Promise<void> => {
    if (ms >= 20_000) return new Promise((done) => signal.addEventListener("abort", () => done()));
    this.waits.push(ms);
    this.now += ms;
  };

  /** The network as the ports of a client. */
  readonly ports: KdsPorts = { fetch: this.fetch, clock: this.clock, random: this.random, sleep: this.sleep };
}

/** An upstream of all three kinds. */
export function upstreamOf(amd: TestAmd, chips: readonly TestChip[], crl: () => Uint8Array = () => amd.crl(1n).der): (path: string) => Response {
  const bytes = (value: Uint8Array): Response => new Response(new Uint8Array(value));
  const find = (chipId: Uint8Array, tcb: Uint8Array): TestChip | undefined =>
    chips.find(({ request }) => equalBytes(request.chipId, chipId) && equalBytes(request.reportedTcb, tcb));
  return (path) => {
    const none = new Response("no such certificate", { status: 404 });
    if (path.startsWith(THIM_PATH)) return chips[0] === undefined ? none : new Response(chips[0].thim);
    if (path.startsWith("/SevSnpVM/")) {
      const { chipId, tcb } = parseAzureCachePath(path);
      const chip = find(chipId, tcb);
      return chip === undefined ? none : new Response(chip.pem);
    }
    const asked = parseKdsPath(path);
    if (asked.product !== amd.product) return none;
    if (asked.kind !== "vcek") return asked.kind === "crl" ? bytes(crl()) : new Response(amd.chainPem(asked.endorsement));
    const chip = find(asked.chipId, asked.tcb);
    return chip === undefined ? none : bytes(chip.vcek.der);
  };
}
