/** Reads a file of /proc as text; undefined if it is not there. */
export type ReadProc = (path: string) => string | undefined;

type Labels = Readonly<Record<string, string>>;
interface Sample {
  readonly labels: Labels;
  readonly value: number | bigint;
}

/** Unit of the fields of /proc/self/stat and /proc/stat: USER_HZ, 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;
/** Unit of /proc/self/statm. */
const PAGE_BYTES = 4096;

/** Columns of /proc/stat and /proc/diskstats, by the names that Kata's exporter gives them (Linux, Documentation/admin-guide/iostats.rst). */
const CPU_COLUMNS = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"];
const DISK_COLUMNS = [
  "reads",
  "merged",
  "sectors_read",
  "time_reading",
  "writes",
  "writes_merged",
  "sectors_written",
  "time_writing",
  "in_progress",
  "time_in_progress",
  "weighted_time_in_progress",
  "discards",
  "discards_merged",
  "sectors_discarded",
  "time_discarding",
  "flushes",
  "time_flushing",
];
const NETWORK_COLUMNS = [
  "recv_bytes",
  "recv_packets",
  "recv_errs",
  "recv_drop",
  "recv_fifo",
  "recv_frame",
  "recv_compressed",
  "recv_multicast",
  "sent_bytes",
  "sent_packets",
  "sent_errs",
  "sent_drop",
  "sent_fifo",
  "sent_colls",
  "sent_carrier",
  "sent_compressed",
];
/** Fields of /proc/self/stat by number, counted from 1 (proc(5)). */
const STAT_FIELDS: readonly (readonly [name: string, number: number])[] = [
  ["utime", 14],
  ["stime", 15],
  ["cutime", 16],
  ["cstime", 17],
];

/**
 * What the agent and its machine use, as Prometheus text (specs/runtime.md 2.1). What a file does not tell is left out.
 * @param scrapes how often this was asked, this time included
 */
export function agentMetrics(read: ReadProc, scrapes: number): string {
  const stat = read("/proc/self/stat") ?? "";
  // The second field, the name, may hold anything; the field after its closing parenthesis is the third.
  const fields = words(stat.slice(stat.lastIndexOf(")") + 1));
  const statField = (number: number): Sample[] => numbers({}, fields[number - 3]);
  const [pagesTotal, pagesResident] = words(read("/proc/self/statm"));
  const ticks = STAT_FIELDS.map(([, number]) => Number(fields[number - 3])).filter((value) => Number.isFinite(value));
  const own = ticks.length === 0 ? [] : [{ labels: {}, value: (ticks[0] ?? 0) + (ticks[1] ?? 0) }];
  const bytes = (pages: string | undefined): Sample[] => numbers({}, pages).map(({ labels, value }) => ({ labels, value: Number(value) * PAGE_BYTES }));

  return [
    metric("kata_agent_io_stat", "Agent process IO statistics.", "gauge", keyed(read("/proc/self/io"))),
    metric(
      "kata_agent_proc_stat",
      "Agent process statistics.",
      "gauge",
      STAT_FIELDS.flatMap(([item, number]) => statField(number).map(({ value }) => ({ labels: { item }, value }))),
    ),
    metric("kata_agent_proc_status", "Agent process status.", "gauge", keyed(read("/proc/self/status"), /^(?:Vm|Rss|Hugetlb|nonvoluntary|voluntary|Threads)/)),
    metric(
      "kata_agent_process_cpu_seconds_total",
      "Total user and system CPU time spent in seconds.",
      "counter",
      own.map(({ labels, value }) => ({ labels, value: value / TICKS_PER_SECOND })),
    ),
    metric("kata_agent_process_resident_memory_bytes", "Resident memory size in bytes.", "gauge", bytes(pagesResident)),
    metric("kata_agent_process_virtual_memory_bytes", "Virtual memory size in bytes.", "gauge", bytes(pagesTotal)),
    metric("kata_agent_scrape_count", "Metrics scrape count.", "counter", [{ labels: {}, value: scrapes }]),
    metric("kata_agent_threads", "Agent process threads.", "gauge", statField(20)),
    metric("kata_agent_total_rss", "Agent process total resident set size, in pages.", "gauge", numbers({}, pagesResident)),
    metric("kata_agent_total_time", "Agent process total time, in ticks.", "gauge", own),
    metric("kata_agent_total_vm", "Agent process total virtual memory size, in bytes.", "gauge", statField(23)),
    metric("kata_guest_cpu_time", "Guest CPU statistics.", "gauge", cpuSamples(read("/proc/stat"))),
    metric("kata_guest_diskstat", "Disk statistics in system.", "gauge", diskSamples(read("/proc/diskstats"))),
    metric("kata_guest_load", "Guest system load.", "gauge", loadSamples(read("/proc/loadavg"))),
    metric("kata_guest_meminfo", "Statistics about memory usage on the system.", "gauge", keyed(read("/proc/meminfo"))),
    metric("kata_guest_netdev_stat", "Guest net devices statistics.", "gauge", networkSamples(read("/proc/net/dev"))),
    metric("kata_guest_tasks", "Guest system load.", "gauge", taskSamples(read("/proc/loadavg"))),
    metric("kata_guest_vm_stat", "Guest virtual memory statistics.", "gauge", keyed(read("/proc/vmstat"))),
  ].join("");
}

function metric(name: string, help: string, type: "gauge" | "counter", samples: readonly Sample[]): string {
  if (samples.length === 0) return "";
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${samples.map(({ labels, value }) => `${name}${labelText(labels)} ${value}\n`).join("")}`;
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${value.replaceAll(/[\\"\n]/g, (c) => (c === "\n" ? "\\n" : `\\${c}`))}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

/** Lines `name: number …` or `name number`; names as they stand, in small letters, with `_` for what labels of Kata's do not have. */
function keyed(text: string | undefined, wanted = /^/): readonly Sample[] {
  return lines(text).flatMap((line) => {
    const [, name, value] = /^([A-Za-z0-9_()]+):?\s+([0-9]+)(?:\s|$)/.exec(line) ?? [];
    if (name === undefined || !wanted.test(name)) return [];
    const item = name.toLowerCase().replaceAll(/[()]+/g, "_").replace(/_$/, "");
    return numbers({ item }, value);
  });
}

function cpuSamples(text: string | undefined): readonly Sample[] {
  return lines(text).flatMap((line) => {
    const [name = "", ...values] = words(line);
    if (!/^cpu[0-9]*$/.test(name)) return [];
    return CPU_COLUMNS.flatMap((item, i) => numbers({ cpu: name === "cpu" ? "total" : name.slice(3), item }, values[i]));
  });
}

function diskSamples(text: string | undefined): readonly Sample[] {
  return lines(text).flatMap((line) => {
    const [, , disk = "", ...values] = words(line);
    return DISK_COLUMNS.flatMap((item, i) => numbers({ disk, item }, values[i]));
  });
}

function networkSamples(text: string | undefined): readonly Sample[] {
  return lines(text).flatMap((line) => {
    const [, name, rest] = /^\s*([^\s:|]+):\s*(.*)$/.exec(line) ?? [];
    if (name === undefined) return [];
    const values = words(rest);
    return NETWORK_COLUMNS.flatMap((item, i) => numbers({ interface: name, item }, values[i]));
  });
}

function loadSamples(text: string | undefined): readonly Sample[] {
  const values = words(text);
  return ["load1", "load5", "load15"].flatMap((item, i) => numbers({ item }, values[i]));
}

function taskSamples(text: string | undefined): readonly Sample[] {
  const [current, max] = (words(text)[3] ?? "").split("/");
  return [...numbers({ item: "cur" }, current), ...numbers({ item: "max" }, max)];
}

function numbers(labels: Labels, text: string | undefined): Sample[] {
  if (text === undefined || !/^[0-9]+(?:\.[0-9]+)?$/.test(text)) return [];
  return [{ labels, value: text.includes(".") ? Number(text) : BigInt(text) }];
}

function lines(text: string | undefined): readonly string[] {
  return text === undefined ? [] : text.split("\n");
}

function words(text: string | undefined): readonly string[] {
  return text === undefined ? [] : text.trim().split(/\s+/);
}
