import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { criApi } from "@sealpod/proto";
import { IMAGES, until } from "./test-support.ts";
import type { ContainerdWorld, KubePod, Program } from "./test-support.ts";

/** What tests break on a node, and how they look at what is left. */

const METHODS = criApi.RuntimeService.method;

/** A process of a world. */
export interface NodeProcess {
  /** In the world, as `parent`. */
  readonly pid: number;
  readonly parent: number;
  /** Arguments with blanks between them; empty for a zombie. */
  readonly command: string;
}

/** All processes of a world. */
export function processesOf(world: ContainerdWorld): readonly NodeProcess[] {
  const proc = world.namespace.path("/proc");
  return readdirSync(proc)
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const command = readFileSync(join(proc, name, "cmdline"), "utf8")
          .replaceAll("\0", " ")
          .trim();
        // The second field is the program's name, which may contain anything.
        const [, parent = ""] = /^.*\) \S (\d+) /s.exec(readFileSync(join(proc, name, "stat"), "latin1")) ?? [];
        return [{ pid: Number(name), parent: Number(parent), command }];
      } catch {
        // It has ended meanwhile.
        return [];
      }
    });
}

/** The shim of a pod, or of a container of ctr(8). */
export function shimOf(world: ContainerdWorld, id: string): NodeProcess {
  const [shim] = processesOf(world).filter(({ command }) => command.includes("/shim.mjs ") && command.includes(`-id ${id} `));
  if (shim === undefined) throw new Error(`there is no shim of ${id}`);
  return shim;
}

/** A process and all that come from it. */
export function familyOf(world: ContainerdWorld, pid: number): readonly NodeProcess[] {
  const all = processesOf(world);
  const family = all.filter((process) => process.pid === pid);
  for (let i = 0; i < family.length; i++) family.push(...all.filter(({ parent }) => parent === family[i]?.pid));
  return family;
}

/** The one process below another whose command matches. */
export function descendant(world: ContainerdWorld, pid: number, command: RegExp): NodeProcess {
  const found = familyOf(world, pid).filter((process) => command.test(process.command));
  // Of programs that only start another one with all its arguments, the last is it.
  const last = found.find(({ pid: own }) => !found.some(({ parent }) => parent === own));
  if (last === undefined) throw new Error(`no process below ${pid} matches ${String(command)}: ${JSON.stringify(familyOf(world, pid))}`);
  return last;
}

/** Sends a signal to a process of a world. */
export async function kill(world: ContainerdWorld, signal: "KILL" | "STOP" | "CONT" | "USR1", pid: number): Promise<void> {
  await world.inside("busybox", "kill", `-${signal}`, String(pid));
}

/** Waits until none of some processes is there; a zombie is. */
export function gone(world: ContainerdWorld, processes: readonly NodeProcess[]): Promise<void> {
  return until(() => {
    const left = processesOf(world).filter(({ pid }) => processes.some((process) => process.pid === pid));
    if (left.length > 0) throw new Error(`still there: ${JSON.stringify(left)}`);
  });
}

/** Ends containerd by force, and leaves it so until the world restarts it. */
export async function endContainerd(world: ContainerdWorld): Promise<void> {
  const daemon = daemonOf(world);
  await kill(world, "KILL", daemon.pid);
  await gone(world, [daemon]);
}

/** The process of containerd itself. */
export function daemonOf(world: ContainerdWorld): NodeProcess {
  const daemon = processesOf(world).find(({ command }) => command === "containerd");
  if (daemon === undefined) throw new Error("containerd does not run");
  return daemon;
}

/** What a process has open. */
export function descriptorsOf(world: ContainerdWorld, pid: number): readonly string[] {
  const directory = world.namespace.path(`/proc/${pid}/fd`);
  return readdirSync(directory).flatMap((name) => {
    try {
      return [readlinkSync(join(directory, name))];
    } catch {
      return [];
    }
  });
}

/** The state of a pod's sandbox, as kubelet sees it. */
export async function sandboxState(world: ContainerdWorld, pod: KubePod): Promise<"ready" | "not ready"> {
  const { status } = await world.cri(METHODS.podSandboxStatus, { podSandboxId: pod.id });
  return status?.state === criApi.PodSandboxState.SANDBOX_READY ? "ready" : "not ready";
}

/** Waits until a pod's sandbox is not ready. */
export function notReady(world: ContainerdWorld, pod: KubePod): Promise<void> {
  return until(async () => {
    if ((await sandboxState(world, pod)) === "ready") throw new Error(`sandbox ${pod.id} is ready`);
  });
}

/** Names of the interfaces in the only pod's network namespace. */
export async function podInterfaces(world: ContainerdWorld): Promise<readonly string[]> {
  const names = readdirSync(world.namespace.path("/run/netns"));
  if (names.length !== 1) throw new Error(`one pod's network is expected, found: ${names.join(" ")}`);
  const links = await world.inside("nsenter", `--net=/run/netns/${names[0] ?? ""}`, "ip", "-o", "link");
  return [...links.matchAll(/^\d+: ([^:@\s]+)/gm)].map((match) => match[1] ?? "").toSorted();
}

/** containerd's events in all namespaces, from now on. */
export class Events implements AsyncDisposable {
  readonly #program: Program;

  private constructor(program: Program) {
    this.#program = program;
  }

  /** Resolves when the events are followed. */
  static async follow(world: ContainerdWorld): Promise<Events> {
    const events = new Events(world.startCtr("events"));
    // The subscription is announced by nothing but the first event.
    for (let i = 0; events.#program.stdout === ""; i++) await world.ctr("namespaces", "label", "default", `probe=${i}`);
    return events;
  }

  /** Topic, and exit status, of the events of a container, in their order. */
  of(id: string): readonly string[] {
    return this.#program.stdout
      .split("\n")
      .filter((line) => line.includes(`"${id}"`))
      .flatMap((line) => {
        const [, topic, fields = "{}"] = /\/tasks\/(\S+) (.*)$/.exec(line) ?? [];
        if (topic === undefined) return [];
        const { exit_status: status = 0 } = JSON.parse(fields) as { readonly exit_status?: number };
        return [topic === "exit" ? `exit ${status}` : topic];
      });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#program.signal("SIGTERM");
    await this.#program.exited;
  }
}

/** Mounts a small file system on a directory of a world. */
export async function mountSmall(world: ContainerdWorld, path: string, kilobytes: number): Promise<void> {
  await world.inside("mkdir", "-p", path);
  // mount(8) would leave files of its own.
  await world.inside("busybox", "mount", "-t", "tmpfs", "-o", `size=${kilobytes}k,mode=0755`, "small", path);
}

/** Changes the size of what {@link mountSmall} has mounted. */
export async function resizeSmall(world: ContainerdWorld, path: string, kilobytes: number): Promise<void> {
  await world.inside("busybox", "mount", "-o", `remount,size=${kilobytes}k`, path);
}

/** Takes back {@link mountSmall}. */
export async function unmountSmall(world: ContainerdWorld, path: string): Promise<void> {
  await world.inside("busybox", "umount", path);
}

/** A pod of containers that run until they get SIGUSR1, and then end with 5. */
export function waitingPod(name: string, containers: readonly string[]): string {
  const list = containers.map(
    (container) => `
    - name: ${container}
      image: ${IMAGES.busybox}
      command: [sh, -c, "trap 'echo last words; exit 5' USR1; echo up; while :; do sleep 1000 & wait $!; done", ${name}-${container}]`,
  );
  return `
apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec:
  containers:${list.join("")}
`;
}

/** The process of a container of {@link waitingPod} in a pod without a machine. */
export function waitingProcess(world: ContainerdWorld, name: string, container: string): NodeProcess {
  const found = processesOf(world).find(({ command }) => command.startsWith("sh -c trap") && command.endsWith(` ${name}-${container}`));
  if (found === undefined) throw new Error(`container ${container} of ${name} does not run`);
  return found;
}
