import { lstat, mkdtemp, readFile, readlink, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { encodeUtf8 } from "@sealpod/core";
import { planPod } from "./plan.ts";
import { writeHostFiles } from "./write.ts";
import { context, TEMPLATE } from "./testdata/fixtures.ts";

describe("writeHostFiles", () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "sealpod-kubelet-"));
  });
  afterEach(async () => rm(directory, { recursive: true, force: true }));

  it("makes everything that the plan's bind mounts name", async () => {
    const run = join(directory, "run");
    const plan = await planPod(TEMPLATE, context({ runDirectory: run }));
    await writeHostFiles(plan.files, run);
    expect((await stat(run)).mode & 0o777).toBe(0o700);
    for (const planned of [plan.sandbox, ...plan.containers]) {
      for (const mount of planned.spec.mounts) if (mount.type === "bind") await expect(lstat(mount.source)).resolves.toBeDefined();
    }
    const tokens = plan.containers[0]?.spec.mounts.find((mount) => mount.destination === "/var/run/secrets/azure/tokens")?.source ?? "";
    expect(await readFile(join(tokens, "azure-identity-token"), "utf8")).toBe("token for api://AzureADTokenExchange, 3600 s");
    expect(await readlink(join(tokens, "..data"))).toMatch(/^\.\.2026_/);
    const shm = plan.sandbox.spec.mounts.find((mount) => mount.destination === "/dev/shm")?.source ?? "";
    expect((await stat(shm)).mode & 0o7777).toBe(0o1777);
  });

  it("overwrites nothing", async () => {
    const file = { kind: "file", path: join(directory, "a"), mode: 0o600, content: encodeUtf8("1") } as const;
    await writeHostFiles([file], directory);
    await expect(writeHostFiles([{ ...file, content: encodeUtf8("2") }], directory)).rejects.toMatchObject({ code: "ERR_KUBELET_FILES" });
    expect(await readFile(file.path, "utf8")).toBe("1");
  });

  it("writes nothing outside the run directory", async () => {
    const file = { kind: "file", path: join(directory, "run", "..", "out"), mode: 0o600, content: encodeUtf8("1") } as const;
    await expect(writeHostFiles([file], join(directory, "run"))).rejects.toMatchObject({ code: "ERR_KUBELET_FILES" });
    await expect(lstat(join(directory, "out"))).rejects.toMatchObject({ code: "ENOENT" });
  });
});
