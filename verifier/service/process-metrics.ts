import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Clock } from "@sealpod/core";
import type { Metrics } from "./metrics.ts";

/** Milliseconds between the samples of the event loop. */
const RESOLUTION = 20;

/** Adds what Prometheus' client libraries tell of every process; disposing ends the sampling. */
export function watchProcess(metrics: Metrics, clock: Clock): Disposable {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION });
  delay.enable();
  metrics.gauge("process_start_time_seconds", "When the process started, in seconds since 1970.").set(Math.round(clock.now() / 1000 - process.uptime()));
  const memory = metrics.gauge("process_resident_memory_bytes", "Memory of the process that is in RAM.");
  const heap = metrics.gauge("nodejs_heap_used_bytes", "Memory that JavaScript objects take.");
  const cpu = metrics.counter("process_cpu_seconds_total", "Seconds of processor time, user and system.");
  const mean = metrics.gauge("nodejs_eventloop_lag_mean_seconds", "How late timers were on average since the last scrape.");
  const worst = metrics.gauge("nodejs_eventloop_lag_max_seconds", "How late a timer was at most since the last scrape.");
  let counted = 0;
  metrics.beforeText(() => {
    const { rss, heapUsed } = process.memoryUsage();
    memory.set(rss);
    heap.set(heapUsed);
    const { user, system } = process.cpuUsage();
    const seconds = (user + system) / 1e6;
    cpu.inc(Math.max(0, seconds - counted));
    counted = seconds;
    // It counts from the sample before, of which the resolution is meant to be.
    const late = (nanoseconds: number): number => (Number.isFinite(nanoseconds) ? Math.max(0, nanoseconds / 1e9 - RESOLUTION / 1000) : 0);
    mean.set(late(delay.mean));
    worst.set(delay.max === 0 ? 0 : late(delay.max));
    delay.reset();
  });
  return { [Symbol.dispose]: () => void delay.disable() };
}
