import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { openKeys } from "./key-store.ts";

const ports = { clock: { now: () => 0 }, random: { bytes: (length: number) => new Uint8Array(length) } };

describe("the key store's directory", () => {
  it.skipIf(!existsSync("/proc/self"))("is refused where a file system takes no directories and says ENOENT", async () => {
    await expect(openKeys("/proc/sealpod/psp", ports)).rejects.toMatchObject({ code: "ERR_IO_WRITE", hint: expect.any(String) as string });
  });
});
