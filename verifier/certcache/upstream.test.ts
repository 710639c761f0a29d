import { fallbackSource } from "@sealpod/snp";
import { describe, expect, it } from "vitest";
import { TestAmd } from "./testdata/amd.ts";
import { TestNetwork, upstreamOf } from "./testdata/network.ts";
import { openUpstream, parseUpstream, type UpstreamName } from "./upstream.ts";

const milan = new TestAmd("Milan");
const A = milan.chip(1);

/** What Node's fetch says when the resolver says `code`. */
function unresolved(code: string): Error {
  return new TypeError("fetch failed", { cause: Object.assign(new Error(`getaddrinfo ${code} kdsintf.amd.com`), { code }) });
}

const named = (text: string): UpstreamName => parseUpstream(text) ?? { kind: "thim", url: undefined };

describe("an upstream whose host has no address", () => {
  it.each(["ENOTFOUND", "EAI_AGAIN"])("is asked once more and no more, and at once (%s)", async (code) => {
    for (const text of ["kds", "azcache=cache.test", "thim"]) {
      const network = new TestNetwork(() => unresolved(code));
      const source = openUpstream(named(text), network.ports);
      const asks = [async () => source.fetchEndorsement(A.request), async () => source.fetchChain(A.request)];
      const { authorities } = source;
      if (authorities !== undefined)
        asks.push(
          async () => authorities.fetchAuthorities("vcek", "Milan") as never,
          async () => authorities.fetchCrl("vcek", "Milan") as never,
        );
      for (const [index, ask] of asks.entries()) {
        await expect(ask()).rejects.toMatchObject({
          code: "ERR_SNP_KDS_UNAVAILABLE",
          message: expect.stringContaining(`getaddrinfo ${code} kdsintf.amd.com`) as string,
          hint: expect.stringContaining("certcache import") as string,
        });
        expect(network.paths).toHaveLength(2 * (index + 1));
      }
      // Nobody was asked, so nobody's distance of ten seconds is kept.
      expect(Math.max(...network.waits)).toBeLessThan(1000);
    }
  });

  it("is forgiven once, and other failures as often as before", async () => {
    const answer = upstreamOf(milan, [A]);
    const network = new TestNetwork((path) => (network.paths.length === 1 ? unresolved("EAI_AGAIN") : answer(path)));
    expect((await openUpstream(named("kds"), network.ports).fetchEndorsement(A.request)).product).toBe("Milan");
    expect(network.paths).toHaveLength(2);
    const broken = new TestNetwork(() => new TypeError("fetch failed", { cause: Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" }) }));
    await expect(openUpstream(named("kds=http://cache.test"), broken.ports).fetchEndorsement(A.request)).rejects.toMatchObject({
      code: "ERR_SNP_KDS_UNAVAILABLE",
    });
    expect(broken.paths).toHaveLength(3);
  });

  it("leaves the next upstream to be asked, and the caller's own end the caller's", async () => {
    const answer = upstreamOf(milan, [A]);
    const down = new TestNetwork(() => unresolved("ENOTFOUND"));
    const up = new TestNetwork(answer);
    const both = fallbackSource([openUpstream(named("kds"), down.ports), openUpstream(named("azcache=cache.test"), up.ports)]);
    expect((await both.fetchEndorsement(A.request)).product).toBe("Milan");
    const gone = AbortSignal.abort(new Error("gone"));
    await expect(openUpstream(named("kds"), down.ports).fetchEndorsement(A.request, gone)).rejects.toThrow("gone");
  });
});
