import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { commonSettings, type CommonSettings } from "./common-settings.ts";
import { ServiceError } from "./errors.ts";
import { runServiceProgram, type ServiceProcess, type ServiceProgram } from "./program.ts";
import { textSetting, type Setting } from "./settings.ts";

type Schema = CommonSettings & { readonly issuer: Setting<string> };
const SCHEMA: Schema = { issuer: textSetting("Who issues.", { required: true }), ...commonSettings("127.0.0.1:0") };

class Fake {
  out = "";
  err = "";
  readonly exits: number[] = [];
  readonly handlers = new Map<string, () => void>();
  readonly calls: string[] = [];
  readonly log: number;
  readonly directory: string;
  onExit: (() => void)[] = [];

  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), "sealpod-program-"));
    this.log = openSync(join(this.directory, "log"), "w");
  }

  process(argv: readonly string[], env: Record<string, string> = {}): ServiceProcess {
    return {
      argv,
      env,
      cwd: this.directory,
      clock: { now: () => 5 },
      stdout: (text) => {
        this.out += text;
      },
      stderr: (text) => {
        this.err += text;
      },
      log: this.log,
      onSignal: (name, handler) => void this.handlers.set(name, handler),
      onExit: (handler) => void this.onExit.push(handler),
      exit: (code) => void this.exits.push(code),
    };
  }

  lines(): readonly unknown[] {
    return readFileSync(join(this.directory, "log"), "utf8")
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as unknown);
  }

  program(start: ServiceProgram<Schema>["start"]): ServiceProgram<Schema> {
    return { name: "demo", summary: "Demo.", version: "9.8.7", schema: SCHEMA, prefix: "DEMO_", start };
  }

  /** A program that notes what is done to it; `onStart` is called when it has started. */
  quiet(onStart: () => void): ServiceProgram<Schema> {
    return this.program(async (settings, { logger }) => {
      this.calls.push(`start ${settings.issuer}`);
      logger.log("debug", "not at this level");
      setImmediate(onStart);
      return {
        summary: { url: "http://here" },
        reload: async () => void this.calls.push("reload"),
        stop: async () => void this.calls.push("stop"),
      };
    });
  }
}

let fake: Fake;
beforeEach(() => {
  fake = new Fake();
});
afterEach(() => {
  closeSync(fake.log);
  rmSync(fake.directory, { recursive: true, force: true });
});

describe("the main program of a service", () => {
  it("starts with what file and variables say, reloads on SIGHUP, stops on SIGTERM, and logs it", async () => {
    writeFileSync(join(fake.directory, "c.json"), '{"issuer":"file"}');
    const program = fake.quiet(() => {
      fake.handlers.get("SIGHUP")?.();
      fake.handlers.get("SIGTERM")?.();
    });
    expect(await runServiceProgram(program, fake.process(["--config", "c.json"], { DEMO_ISSUER: "variable" }))).toBe(0);
    expect(fake.calls).toEqual(["start variable", "reload", "stop"]);
    expect(fake.lines()).toEqual([
      { level: 30, time: 5, name: "demo", url: "http://here", msg: "listening" },
      { level: 30, time: 5, name: "demo", signal: "SIGTERM", msg: "stopping" },
      { level: 30, time: 5, name: "demo", msg: "stopped" },
    ]);
    expect([fake.out, fake.err, fake.exits]).toEqual(["", "", []]);
  });

  it("stops after a start during which it was asked to", async () => {
    const program = fake.program(async () => {
      fake.handlers.get("SIGINT")?.();
      return { summary: {}, reload: async () => undefined, stop: async () => void fake.calls.push("stop") };
    });
    expect(await runServiceProgram(program, fake.process([], { DEMO_ISSUER: "x" }))).toBe(0);
    expect(fake.calls).toEqual(["stop"]);
  });

  it("takes two signals together for one", async () => {
    const program = fake.quiet(() => {
      fake.handlers.get("SIGTERM")?.();
      fake.handlers.get("SIGTERM")?.();
    });
    await runServiceProgram(program, fake.process([], { DEMO_ISSUER: "x" }));
    expect(fake.exits).toEqual([]);
  });

  it("goes on when a reload fails", async () => {
    const program = fake.program(async () => {
      setImmediate(() => {
        fake.handlers.get("SIGHUP")?.();
        setImmediate(() => fake.handlers.get("SIGTERM")?.());
      });
      return { summary: {}, reload: async () => Promise.reject(new Error("no luck")), stop: async () => undefined };
    });
    expect(await runServiceProgram(program, fake.process([], { DEMO_ISSUER: "x" }))).toBe(0);
    expect(fake.lines()).toContainEqual({ level: 50, time: 5, name: "demo", problem: "no luck", msg: "reload failed" });
  });

  it.each<[string, readonly string[], RegExp]>([
    ["help", ["--help"], /--config FILE[^]*DEMO_[^]*Exit codes/],
    ["its version", ["-V"], /^9\.8\.7\n$/],
    ["every key", ["--describe-config"], /\| `issuer` \| `DEMO_ISSUER` \| required \| Who issues\./],
    ["a draft of its configuration", ["--print-config"], /^\{\n {2}"issuer": null,/],
  ])("prints %s, and starts nothing", async (_what, argv, text) => {
    expect(
      await runServiceProgram(
        fake.quiet(() => undefined),
        fake.process(argv),
      ),
    ).toBe(0);
    expect(fake.out).toMatch(text);
    expect(fake.calls).toEqual([]);
  });

  it.each<[string, readonly string[], number, RegExp]>([
    ["an unknown flag", ["--nope"], 2, /^error: .*--nope/],
    ["an operand", ["x"], 2, /^error: /],
    ["a file that is not there", ["--config", "none"], 2, /cannot be read.*ENOENT[^]*to do:/],
    [
      "a key that is missing",
      [],
      2,
      /^error: issuer is missing: Who issues\. \(in the configuration, or as DEMO_ISSUER\)\n {2}to do: .*\n {2}code: {2}ERR_SERVICE_CONFIG/,
    ],
  ])("refuses %s with one block and exit code 2", async (_what, argv, code, text) => {
    expect(
      await runServiceProgram(
        fake.quiet(() => undefined),
        fake.process(argv),
      ),
    ).toBe(code);
    expect(fake.err).toMatch(text);
    expect(fake.err).not.toMatch(/\n\s+at /);
    expect(fake.calls).toEqual([]);
  });

  it("ends with the exit code of the error that kept it from starting, and its cause", async () => {
    const program = fake.program(async () => Promise.reject(new ServiceError("ERR_SERVICE_LISTEN", "no port", { cause: new Error("EWHAT") })));
    expect(await runServiceProgram(program, fake.process([], { DEMO_ISSUER: "x" }))).toBe(1);
    expect(fake.err).toBe("error: no port\n  cause: EWHAT\n  code:  ERR_SERVICE_LISTEN (docs/errors.md)\n");
    const broken = fake.program(async () => Promise.reject(new TypeError("a fault")));
    expect(await runServiceProgram(broken, fake.process([], { DEMO_ISSUER: "x" }))).toBe(1);
    expect(fake.err).toMatch(/TypeError: a fault\n\s+at /);
  });
});
