import { readdirSync, readFileSync, statSync } from "node:fs";
import { createHash } from "node:crypto";
import { encodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { applyInitdata, type Initdata } from "./apply-initdata.ts";
import { errorOf, inTemporaryDirectory } from "./test-support.ts";

const TOML = 'version = "0.1.0"\n';

function initdata(algorithm: string, entries: Readonly<Record<string, string>>): Initdata {
  return { toml: encodeUtf8(TOML), digest: new Uint8Array(createHash(algorithm).update(TOML).digest()), algorithm, entries: new Map(Object.entries(entries)) };
}

/** HOST_DATA for a digest: 32 bytes of it. */
const hostDataOf = ({ digest }: Initdata): Uint8Array => Uint8Array.from({ length: 32 }, (_, i) => digest[i] ?? 0);

async function apply(
  data: Initdata,
  hostData: Uint8Array,
  use: (directory: string, applied: Promise<Awaited<ReturnType<typeof applyInitdata>>>) => Promise<void>,
): Promise<void> {
  await inTemporaryDirectory(async (path) => {
    const applied = applyInitdata(data, () => Promise.resolve(hostData), `${path}/run/initdata`);
    applied.catch(() => undefined);
    await use(`${path}/run/initdata`, applied);
  });
}

describe("initdata", () => {
  it.each(["sha256", "sha384", "sha512"])("whose digest by %s is HOST_DATA brings the policy and the files of guest components", (algorithm) => {
    const data = initdata(algorithm, { "policy.rego": "package agent_policy\n", "aa.toml": "a = 1\n", "cdh.toml": "c = 1\n", "../evil": "x" });
    return apply(data, hostDataOf(data), async (directory, applied) => {
      expect(await applied).toEqual({ policy: { name: "agent_policy", text: "package agent_policy\n" }, replacement: "policy" });
      expect(readdirSync(`${directory}/..`, { recursive: true, encoding: "utf8" }).sort()).toEqual([
        "initdata",
        "initdata/aa.toml",
        "initdata/cdh.toml",
        "initdata/initdata.toml",
      ]);
      expect(readFileSync(`${directory}/initdata.toml`, "utf8")).toBe(TOML);
      expect(readFileSync(`${directory}/cdh.toml`, "utf8")).toBe("c = 1\n");
      expect(statSync(directory).mode & 0o777).toBe(0o700);
      expect(statSync(`${directory}/aa.toml`).mode & 0o777).toBe(0o600);
    });
  });

  it("without a policy leaves the default one, which HOST_DATA then does not replace unseen", () => {
    const data = initdata("sha256", { "aa.toml": "" });
    return apply(data, hostDataOf(data), async (_directory, applied) => {
      expect(await applied).toEqual({ policy: undefined, replacement: "host-data" });
    });
  });

  it("of another machine does nothing", () => {
    const data = initdata("sha256", { "policy.rego": "package agent_policy\n" });
    const other = hostDataOf(data);
    other[31] = (other[31] ?? 0) ^ 1;
    return apply(data, other, async (directory, applied) => {
      const error = await errorOf(() => applied);
      expect(error.code).toBe("ERR_AGENT_HOST_DATA");
      expect(error.message).toMatch(/^the initdata's sha256 digest is [0-9a-f]{64}, but HOST_DATA of this machine is [0-9a-f]{64}$/);
      expect(() => statSync(directory)).toThrow("ENOENT");
    });
  });

  it("of a machine launched without any is refused", () =>
    apply(initdata("sha512", {}), new Uint8Array(32), async (_directory, applied) => {
      expect((await errorOf(() => applied)).code).toBe("ERR_AGENT_HOST_DATA");
    }));
});
