import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Memory of a pod's processes on the node, MiB; what several processes share counts by its share. */
export interface PodMemory {
  readonly shim: number;
  /** QEMU with the guest's memory; where there is no machine the agent and what it runs, or the containers' processes. */
  readonly rest: number;
  /** Of both, what the pod alone has. */
  readonly own: number;
}

/** A process of a pod. */
export interface PodProcess {
  readonly pid: number;
  readonly command: string;
  /** Milliseconds since 1970, to within 10. */
  readonly started: number;
  /** Milliseconds that it, and what it has waited for the end of, had a processor; to within 10. */
  readonly cpu: number;
}

/** The shim of a pod, and all that it has started. @param proc path of the node's /proc @param pod id of the sandbox */
export function podProcesses(proc: string, pod: string): { readonly shim: PodProcess | undefined; readonly others: readonly PodProcess[] } {
  const booted = Date.now() - Number(readFileSync(join(proc, "uptime"), "latin1").split(" ")[0]) * 1000;
  const all = readdirSync(proc)
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name): (PodProcess & { readonly parent: number })[] => {
      const command = text(join(proc, name, "cmdline"))
        .replaceAll("\0", " ")
        .trim();
      const fields = text(join(proc, name, "stat"))
        .replace(/^.*\) /, "")
        .split(" ");
      if (command === "") return [];
      // Fields 4, 14 to 17 and 22 of all; times are in hundredths of a second.
      const cpu = fields.slice(11, 15).reduce((sum, field) => sum + Number(field) * 10, 0);
      return [{ pid: Number(name), command, parent: Number(fields[1]), started: booted + Number(fields[19]) * 10, cpu }];
    });
  const shim = all.find(({ command }) => (command.includes("containerd-shim") || command.includes("shim.mjs") ? command.includes(`-id ${pod}`) : false));
  const found = new Set<number>(shim === undefined ? [] : [shim.pid]);
  // Children come after their parents as long as process ids do not wrap around; another look finds those that do.
  for (let size = -1; size !== found.size;) {
    size = found.size;
    for (const { pid, parent } of all) if (found.has(parent)) found.add(pid);
  }
  return { shim, others: all.filter(({ pid }) => found.has(pid) && pid !== shim?.pid) };
}

/** What the processes of a pod take. */
export function podMemory(proc: string, pod: string): PodMemory {
  const { shim, others } = podProcesses(proc, pod);
  if (shim === undefined) throw new Error(`pod ${pod} has no shim`);
  const first = processMemory(proc, shim.pid);
  const sum = { shim: first.proportional, rest: 0, own: first.own };
  for (const { pid } of others) {
    const { proportional, own } = processMemory(proc, pid);
    sum.rest += proportional;
    sum.own += own;
  }
  return sum;
}

function processMemory(proc: string, pid: number): { readonly proportional: number; readonly own: number } {
  const rollup = text(join(proc, String(pid), "smaps_rollup"));
  const value = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(rollup)?.[1] ?? "0") / 1024;
  return { proportional: value("Pss"), own: value("Private_Clean") + value("Private_Dirty") };
}

/** Empty if the process has ended meanwhile. */
function text(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
