import { existsSync } from "node:fs";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@sealpod/core";
import { systemClock, systemRandom } from "@sealpod/io";
import { describe, expect, it } from "vitest";
import { openLaptopAuthority } from "./laptop-authority.ts";
import { startServices } from "./start.ts";

const ports = { clock: systemClock, random: systemRandom };
const start = async (state: string): Promise<unknown> =>
  startServices({ state, host: "127.0.0.1", port: 0, domain: "sealpod.internal", pid: 1, ...ports, logger: silentLogger });

describe("the state directory", () => {
  it.skipIf(!existsSync("/proc/self"))("is refused where a file system takes no directories and says ENOENT", async () => {
    await expect(openLaptopAuthority("/proc/sealpod", ports)).rejects.toMatchObject({ code: "ERR_IO_WRITE" });
    await expect(start("/proc/sealpod")).rejects.toMatchObject({ code: "ERR_IO_WRITE" });
  });

  it("is refused if a file is in its way, and made for its owner alone otherwise", async () => {
    const directory = await mkdtemp(join(tmpdir(), "sealpod-state-"));
    try {
      await writeFile(join(directory, "file"), "");
      await expect(start(join(directory, "file"))).rejects.toMatchObject({ code: "ERR_IO_WRITE" });
      await openLaptopAuthority(join(directory, "state"), ports);
      for (const path of ["state", "state/ca"]) expect((await stat(join(directory, path))).mode & 0o777).toBe(0o700);
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});
