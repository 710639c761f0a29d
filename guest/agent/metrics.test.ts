import { describe, expect, it } from "vitest";
import { agentMetrics } from "./metrics.ts";

const FILES: Readonly<Record<string, string>> = {
  "/proc/self/stat": "42 (node) x) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 7 8 20 0 11 0 12345 1048576 25 18446744073709551615\n",
  "/proc/self/statm": "256 25 10 5 0 123 0\n",
  "/proc/self/io": "rchar: 6976\nwchar: 1\n",
  "/proc/self/status": "Name:\tnode\nState:\tS (sleeping)\nVmRSS:\t 100 kB\nThreads:\t11\nnonvoluntary_ctxt_switches:\t3\n",
  "/proc/stat": "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4\nintr 5 6\n",
  "/proc/diskstats": " 254  0 vda 1 2 3 4 5 6 7 8 9 10 11\n",
  "/proc/loadavg": "1.28 0.61 0.88 3/151 31406\n",
  "/proc/meminfo": "MemTotal:       24684092 kB\nActive(anon):       1612 kB\n",
  "/proc/net/dev": "Inter-|   Receive |  Transmit\n face |bytes packets|bytes\n  eth0:9098 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15\n",
  "/proc/vmstat": "nr_free_pages 18446744073709551615\n",
};

describe("metrics", () => {
  const lines = agentMetrics((path) => FILES[path], 3).split("\n");

  it.each([
    'kata_agent_io_stat{item="rchar"} 6976',
    'kata_agent_proc_stat{item="utime"} 150',
    'kata_agent_proc_stat{item="cstime"} 8',
    'kata_agent_proc_status{item="vmrss"} 100',
    'kata_agent_proc_status{item="nonvoluntary_ctxt_switches"} 3',
    "kata_agent_process_cpu_seconds_total 2",
    "kata_agent_process_resident_memory_bytes 102400",
    "kata_agent_process_virtual_memory_bytes 1048576",
    "kata_agent_scrape_count 3",
    "kata_agent_threads 11",
    "kata_agent_total_rss 25",
    "kata_agent_total_time 200",
    "kata_agent_total_vm 1048576",
    'kata_guest_cpu_time{cpu="total",item="guest_nice"} 10',
    'kata_guest_cpu_time{cpu="0",item="idle"} 4',
    'kata_guest_diskstat{disk="vda",item="reads"} 1',
    'kata_guest_load{item="load15"} 0.88',
    'kata_guest_meminfo{item="memtotal"} 24684092',
    'kata_guest_meminfo{item="active_anon"} 1612',
    'kata_guest_netdev_stat{interface="eth0",item="recv_bytes"} 9098',
    'kata_guest_netdev_stat{interface="eth0",item="sent_compressed"} 15',
    'kata_guest_tasks{item="cur"} 3',
    'kata_guest_tasks{item="max"} 151',
    'kata_guest_vm_stat{item="nr_free_pages"} 18446744073709551615',
  ])("tell %s", (line) => {
    expect(lines).toContain(line);
  });

  it("are Prometheus text: each name with its type before its samples, and each sample once", () => {
    const types = new Map(
      lines.flatMap((line) =>
        [...(/^# TYPE (\S+) (gauge|counter)$/.exec(line)?.slice(1).entries() ?? [])].length > 0 ? [line.split(" ").slice(2) as [string, string]] : [],
      ),
    );
    expect(types.size).toBe(18);
    let current = "";
    const samples = new Set<string>();
    for (const line of lines.filter((text) => text !== "")) {
      const name = /^# (?:HELP|TYPE) (\S+) /.exec(line)?.[1];
      if (name !== undefined) {
        current = name;
        continue;
      }
      expect(line).toMatch(/^[a-z_]+(?:\{[a-z]+="[^"\\\n]*"(?:,[a-z]+="[^"\\\n]*")*\})? [0-9.]+$/);
      expect(line.startsWith(`${current}{`) || line.startsWith(`${current} `)).toBe(true);
      const key = line.slice(0, line.lastIndexOf(" "));
      expect(samples.has(key), key).toBe(false);
      samples.add(key);
    }
  });

  it("leave out what is not there", () => {
    expect(agentMetrics(() => undefined, 1)).toBe(
      "# HELP kata_agent_scrape_count Metrics scrape count.\n# TYPE kata_agent_scrape_count counter\nkata_agent_scrape_count 1\n",
    );
  });

  it("escape names that devices chose", () => {
    expect(agentMetrics((path) => (path === "/proc/diskstats" ? '1 1 a"b\\ 7\n' : undefined), 1)).toContain('{disk="a\\"b\\\\",item="reads"} 7\n');
  });
});
