import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openAttestationStore, type AttestationStore } from "./index.ts";
import { random, START } from "./testdata/evidence.ts";

const WRITER = join(import.meta.dirname, "testdata", "policy-writer.ts");

let directory: string;
const file = (): string => join(directory, "attestation.sqlite");
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-attestation-"));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** Lets a writer work, and kills it after so many lines. @returns what it was told is done */
async function killAfter(lines: number, first: number): Promise<readonly string[]> {
  const writer = spawn(process.execPath, [WRITER, file(), String(first)], { stdio: ["ignore", "pipe", "inherit"] });
  const acknowledged: string[] = [];
  for await (const line of createInterface(writer.stdout)) {
    acknowledged.push(line);
    // Not at once: what it does between two lines is to be hit as well. It goes on while the lines that are on their way are read.
    if (acknowledged.length === lines) writer.kill("SIGKILL");
  }
  if (writer.exitCode === null && writer.signalCode === null) await once(writer, "exit");
  expect(writer.signalCode).toBe("SIGKILL");
  return acknowledged;
}

async function open(): Promise<AttestationStore> {
  return openAttestationStore({ file: file(), masterKey: new Uint8Array(32).fill(3), clock: { now: () => START }, random });
}

describe("a database whose writer was killed", () => {
  it("has every change that was acknowledged, and at most one that was not", async () => {
    let first = 0;
    for (const lines of [1, 2, 3, 17, 40, 111]) {
      const acknowledged = await killAfter(lines, first);
      const store = await open();
      const numbers = acknowledged.filter((line) => line.startsWith("policy ")).map((line) => Number(line.slice(7)));
      const stored = Number(/^policy (\d+)$/.exec(store.policy("SevSnpVm")?.text ?? "policy 0")?.[1]);
      const last = numbers.at(-1);
      if (last !== undefined) {
        expect(stored).toBeGreaterThanOrEqual(last);
        expect(stored).toBeLessThanOrEqual(last + 1);
        const history = store.history(10_000).filter(({ operation }) => operation === "set-policy");
        for (const number of numbers) expect(history.some(({ content }) => content === `token ${number}`)).toBe(true);
        // Policy and audit are one change.
        expect(history[0]?.content).toBe(`token ${stored}`);
      }
      const keys = store.publishedKeys().map(({ kid }) => kid);
      for (const line of acknowledged.filter((one) => one.startsWith("key "))) expect(keys).toContain(line.slice(4));
      expect(store.signer().privateKey.asymmetricKeyType).toBe("rsa");
      store.close();
      first = stored + 1;
    }
  });
});

describe("two writers on one database", () => {
  it("lose nothing of each other's", async () => {
    const [a, b] = await Promise.all([killAfter(60, 0), killAfter(60, 1_000_000)]);
    const store = await open();
    const contents = new Set(store.history(100_000).map(({ content }) => content));
    for (const line of [...a, ...b].filter((one) => one.startsWith("policy "))) expect(contents).toContain(line.replace("policy", "token"));
    const keys = store.publishedKeys().map(({ kid }) => kid);
    for (const line of [...a, ...b].filter((one) => one.startsWith("key "))) expect(keys).toContain(line.slice(4));
    expect(store.publishedKeys()).toHaveLength(2);
    store.close();
  });
});
