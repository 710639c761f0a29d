import { execFile } from "node:child_process";
import { accessSync, constants, existsSync, mkdirSync, readFileSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

// Version 2 of cgroups of this host's kernel, which may be mounted beside version 1.

const ROOT = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].find((path) => existsSync(join(path, "cgroup.controllers")));
const reason = process.getuid?.() !== 0 ? "needs root" : ROOT === undefined ? "needs cgroup version 2" : isWritable(ROOT) ? undefined : `${ROOT} is read-only`;

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** Joins, starts a process, ends it and leaves; prints where it was each time. */
const PROGRAM = `
  const { joinPodCgroup, parseHierarchies } = await import(process.argv[1]);
  const { readFileSync } = await import("node:fs");
  const { spawn, execFileSync } = await import("node:child_process");
  const where = (text) => /^0::(.*)$/m.exec(text)[1];
  const own = () => where(readFileSync("/proc/self/cgroup", "latin1"));
  const hierarchies = parseHierarchies(readFileSync("/proc/self/mountinfo", "utf8"), readFileSync("/proc/self/cgroup", "utf8"));
  const said = { before: own(), made: [] };
  const joined = await joinPodCgroup({ pod: process.argv[2], own: "sandbox" }, {
    pid: process.pid, logger: { log: () => undefined }, making: (path) => said.made.push(path), hierarchies: async () => hierarchies.filter(({ version }) => version === 2),
  });
  said.inside = own();
  said.child = where(execFileSync("cat", ["/proc/self/cgroup"], { encoding: "latin1" }));
  const child = spawn("sleep", ["100"]);
  await new Promise((resolve) => child.once("spawn", resolve));
  // Nobody has waited for it when the shim leaves.
  child.kill("SIGKILL");
  await joined.leave();
  said.after = own();
  console.log(JSON.stringify(said));
`;

describe.skipIf(reason !== undefined)(`a shim in the pod's cgroup of version 2${reason === undefined ? "" : ` (skipped: ${reason})`}`, () => {
  const top = `/sealpod-test-${process.pid}`;
  const pod = `${top}/pod1`;

  beforeAll(() => mkdirSync(join(ROOT ?? "", pod), { recursive: true }));
  afterAll(() => [pod, top].forEach((path) => rmdirSync(join(ROOT ?? "", path))));

  it("is in one of its own, with all that it starts, and leaves nothing", async () => {
    const args = ["--input-type=module", "-e", PROGRAM, join(import.meta.dirname, "pod-cgroup.ts"), pod];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    const said = JSON.parse(stdout) as Readonly<Record<string, unknown>>;
    expect(said).toMatchObject({ made: [join(ROOT ?? "", pod, "sandbox")], inside: `${pod}/sandbox`, child: `${pod}/sandbox`, after: said["before"] });
    expect(existsSync(join(ROOT ?? "", pod, "sandbox"))).toBe(false);
    expect(readFileSync(join(ROOT ?? "", pod, "cgroup.procs"), "latin1")).toBe("");
  });
});
