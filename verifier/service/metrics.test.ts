import { describe, expect, it } from "vitest";
import { Metrics } from "./metrics.ts";

describe("metrics in Prometheus' text format", () => {
  it("writes counters, gauges and histograms with their series", () => {
    const metrics = new Metrics();
    const requests = metrics.counter("requests_total", "Requests.", { labels: ["method", "status"] });
    requests.with("GET", "200").inc();
    requests.with("GET", "200").inc(2);
    requests.with("POST", "500").inc();
    const flight = metrics.gauge("in_flight", "In flight.");
    flight.add(3);
    flight.add(-1);
    const seconds = metrics.histogram("seconds", "Seconds.", { labels: ["route"], buckets: [0.1, 1] });
    for (const value of [0.05, 0.1, 0.5, 7]) seconds.with("/x").observe(value);
    expect(metrics.text()).toBe(
      [
        "# HELP requests_total Requests.",
        "# TYPE requests_total counter",
        'requests_total{method="GET",status="200"} 3',
        'requests_total{method="POST",status="500"} 1',
        "# HELP in_flight In flight.",
        "# TYPE in_flight gauge",
        "in_flight 2",
        "# HELP seconds Seconds.",
        "# TYPE seconds histogram",
        'seconds_bucket{route="/x",le="0.1"} 2',
        'seconds_bucket{route="/x",le="1"} 3',
        'seconds_bucket{route="/x",le="+Inf"} 4',
        'seconds_sum{route="/x"} 7.65',
        'seconds_count{route="/x"} 4',
        "",
      ].join("\n"),
    );
  });

  it("writes a metric without labels before it was ever raised, and one with labels not", () => {
    const metrics = new Metrics();
    metrics.counter("a_total", "A.");
    metrics.counter("b_total", "B.", { labels: ["l"] });
    metrics.histogram("c", "C.", { buckets: [1] });
    expect(metrics.text()).toBe(
      '# HELP a_total A.\n# TYPE a_total counter\na_total 0\n# HELP c C.\n# TYPE c histogram\nc_bucket{le="1"} 0\nc_bucket{le="+Inf"} 0\nc_sum 0\nc_count 0\n',
    );
  });

  it("escapes label values and help", () => {
    const metrics = new Metrics();
    metrics
      .gauge("g", 'back\\slash, "quotes" and\nline', { labels: ["l"] })
      .with('a"b\\c\nd')
      .set(1);
    expect(metrics.text()).toBe('# HELP g back\\\\slash, "quotes" and\\nline\n# TYPE g gauge\ng{l="a\\"b\\\\c\\nd"} 1\n');
  });

  it.each([
    [Number.POSITIVE_INFINITY, "+Inf"],
    [Number.NEGATIVE_INFINITY, "-Inf"],
    [Number.NaN, "NaN"],
    [1e21, "1e+21"],
    [-0.5, "-0.5"],
  ])("writes %d as %s", (value, text) => {
    const metrics = new Metrics();
    metrics.gauge("g", "G.").set(value);
    expect(metrics.text()).toContain(`\ng ${text}\n`);
  });

  it("keeps values apart whose texts joined are the same", () => {
    const metrics = new Metrics();
    const counter = metrics.counter("c_total", "C.", { labels: ["a", "b"] });
    counter.with("x", "yz").inc();
    counter.with("xy", "z").inc();
    expect(metrics.text()).toContain('{a="x",b="yz"} 1\nc_total{a="xy",b="z"} 1\n');
  });

  it("bounds the series, and counts what is beyond under other", () => {
    const metrics = new Metrics();
    const counter = metrics.counter("c_total", "C.", { labels: ["who"], maxSeries: 3 });
    for (let at = 0; at < 1000; at++) counter.with(`client ${at}`).inc();
    counter.with("client 0").inc();
    const samples = metrics
      .text()
      .split("\n")
      .filter((line) => line.startsWith("c_total"));
    expect(samples).toEqual(['c_total{who="client 0"} 2', 'c_total{who="client 1"} 1', 'c_total{who="client 2"} 1', 'c_total{who="other"} 997']);
  });

  it("gives the same metric for the same name, and refuses another one of that name", () => {
    const metrics = new Metrics();
    metrics.counter("c_total", "C.").inc();
    metrics.counter("c_total", "C.").inc();
    expect(metrics.text()).toContain("c_total 2");
    expect(() => metrics.gauge("c_total", "C.")).toThrow(expect.objectContaining({ code: "ERR_SERVICE_ARGUMENT" }));
    expect(() => metrics.counter("c_total", "C.", { labels: ["l"] })).toThrow(expect.objectContaining({ code: "ERR_SERVICE_ARGUMENT" }));
  });

  it.each<[string, (metrics: Metrics) => unknown]>([
    ["a name with a dash", (metrics) => metrics.counter("a-b", "")],
    ["an empty name", (metrics) => metrics.counter("", "")],
    ["a label with two underscores first", (metrics) => metrics.counter("a", "", { labels: ["__x"] })],
    ["the label le", (metrics) => metrics.histogram("a", "", { labels: ["le"] })],
    ["a label twice", (metrics) => metrics.counter("a", "", { labels: ["x", "x"] })],
    ["too few values", (metrics) => metrics.counter("a", "", { labels: ["x"] }).with()],
    ["too many values", (metrics) => metrics.counter("a", "", { labels: ["x"] }).with("1", "2")],
    ["a counter that falls", (metrics) => metrics.counter("a", "").inc(-1)],
    ["a counter raised by NaN", (metrics) => metrics.counter("a", "").inc(Number.NaN)],
    ["buckets that do not rise", (metrics) => metrics.histogram("a", "", { buckets: [1, 1] })],
    ["no buckets", (metrics) => metrics.histogram("a", "", { buckets: [] })],
  ])("refuses %s", (_what, call) => {
    expect(() => call(new Metrics())).toThrow(expect.objectContaining({ code: "ERR_SERVICE_ARGUMENT" }));
  });

  it("asks collectors for what is so when it is written", () => {
    const metrics = new Metrics();
    const gauge = metrics.gauge("g", "G.");
    let now = 1;
    metrics.beforeText(() => gauge.set(now));
    expect(metrics.text()).toContain("g 1");
    now = 2;
    expect(metrics.text()).toContain("g 2");
  });
});
