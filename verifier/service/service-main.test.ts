import { expect, it } from "vitest";
import { commonSettings } from "./common-settings.ts";
import type { ServiceProgram } from "./program.ts";
import { runServiceMain, type MainProcess, type ServiceMainPorts } from "./service-main.ts";

const SCHEMA = commonSettings("127.0.0.1:0");

class Ended extends Error {}

/** A process that notes what is done to it, and ends by throwing. */
class FakeProcess {
  readonly calls: string[] = [];

  process(...args: readonly string[]): MainProcess {
    const note = (what: string) => (text: unknown) => {
      this.calls.push(`${what} ${String(text)}`);
      return true;
    };
    return {
      argv: ["node", "main.ts", ...args],
      env: {},
      cwd: () => "/service",
      getuid: () => 1234,
      umask: (mask?: number | string) => {
        this.calls.push(`umask ${Number(mask).toString(8)}`);
        return 0;
      },
      on: () => undefined as never,
      exit: (code?: number | string | null): never => {
        this.calls.push(`exit ${code}`);
        throw new Ended();
      },
      stdout: { write: note("stdout") },
      stderr: { write: note("stderr") },
    };
  }
}

function maker(made: ServiceMainPorts[], own: FakeProcess): (ports: ServiceMainPorts) => ServiceProgram<typeof SCHEMA> {
  return (ports) => {
    own.calls.push("make");
    made.push(ports);
    return { name: "demo", summary: "Demo.", version: "9.8.7", schema: SCHEMA, prefix: "DEMO_", start: async () => Promise.reject(new Error("not asked to")) };
  };
}

it("runs a program with the process's own, which nobody else may read, and ends with its exit code", async () => {
  const own = new FakeProcess();
  const made: ServiceMainPorts[] = [];
  await expect(runServiceMain(maker(made, own), own.process("--version"))).rejects.toThrow(Ended);
  expect(own.calls).toEqual(["umask 77", "make", "stdout 9.8.7\n", "exit 0"]);
  expect(made).toMatchObject([{ uid: 1234, cwd: "/service", ownsProcess: true }]);
  expect(made[0]?.random.bytes(5)).toHaveLength(5);
  expect(made[0]?.random.bytes(16)).not.toEqual(made[0]?.random.bytes(16));
});

it("says why on the error stream when it does not start", async () => {
  const own = new FakeProcess();
  await expect(runServiceMain(maker([], own), own.process("--nope"))).rejects.toThrow(Ended);
  expect(own.calls.slice(2)).toEqual([expect.stringMatching(/^stderr error: .*--nope/), "exit 2"]);
});
