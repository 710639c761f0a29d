import { ServiceError } from "./errors.ts";

/** Series that one metric keeps. What varies with the client (a path, an address) must never be a label, and this holds if it is all the same. */
const DEFAULT_MAX_SERIES = 1000;

/** The values of the labels of the series that takes what is beyond the bound. */
const OVERFLOW = "other";

/** Seconds. From a cached answer to the time limit of a request. */
const DEFAULT_BUCKETS: readonly number[] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

const METRIC_NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const LABEL_NAME = /^(?!__)[a-zA-Z_][a-zA-Z0-9_]*$/;

/** Of a metric with labels. */
export interface MetricOptions {
  /** Names of the labels; their values are given to `with` in this order. */
  readonly labels?: readonly string[];
  /** Series kept, {@link DEFAULT_MAX_SERIES} if absent; values beyond are counted under `other`. */
  readonly maxSeries?: number;
}

/** Of {@link Metrics.histogram}. */
export interface HistogramOptions extends MetricOptions {
  /** Upper bounds, rising; `+Inf` is added. */
  readonly buckets?: readonly number[];
}

/** A number that only rises. */
export interface Counter {
  /** @param by 1 if absent, never negative */
  inc(by?: number): void;
  /** The series of these label values. */
  with(...values: readonly string[]): Counter;
}

/** A number that goes up and down. */
export interface Gauge {
  set(value: number): void;
  add(by: number): void;
  /** The series of these label values. */
  with(...values: readonly string[]): Gauge;
}

/** How often values fell below each bound. */
export interface Histogram {
  observe(value: number): void;
  /** The series of these label values. */
  with(...values: readonly string[]): Histogram;
}

type Kind = "counter" | "gauge" | "histogram";

/** One registry of metrics, written in Prometheus' text format 0.0.4. */
export class Metrics {
  /** Media type of {@link text}. */
  static readonly contentType: string = "text/plain; version=0.0.4; charset=utf-8";

  readonly #families = new Map<string, Family<Series>>();
  readonly #collectors: (() => void)[] = [];

  /**
   * A counter; the same one for the same name.
   * @throws {ServiceError} ERR_SERVICE_ARGUMENT for a bad name, or one that is taken by something else
   */
  counter(name: string, help: string, options: MetricOptions = {}): Counter {
    return this.#family("counter", name, help, options, "", () => new Value("counter")).view();
  }

  /** A gauge; see {@link counter}. */
  gauge(name: string, help: string, options: MetricOptions = {}): Gauge {
    return this.#family("gauge", name, help, options, "", () => new Value("gauge")).view();
  }

  /** A histogram; see {@link counter}. */
  histogram(name: string, help: string, options: HistogramOptions = {}): Histogram {
    const bounds = options.buckets ?? DEFAULT_BUCKETS;
    if (bounds.length === 0 || bounds.some((bound, at) => !Number.isFinite(bound) || (at > 0 && bound <= (bounds[at - 1] ?? 0))))
      throw new ServiceError("ERR_SERVICE_ARGUMENT", `the buckets of ${name} do not rise: ${bounds.join(", ")}`);
    return this.#family("histogram", name, help, options, bounds.join(), () => new Buckets(bounds)).view();
  }

  /** Calls `collect` before the metrics are written, to set gauges to what is so now. */
  beforeText(collect: () => void): void {
    this.#collectors.push(collect);
  }

  /** All metrics, in the order in which they were made. */
  text(): string {
    for (const collect of this.#collectors) collect();
    const lines: string[] = [];
    for (const family of this.#families.values()) family.write(lines);
    return lines.join("");
  }

  #family<S extends Series>(kind: Kind, name: string, help: string, options: MetricOptions, shape: string, make: () => S): Family<S> {
    const labels = options.labels ?? [];
    const found = this.#families.get(name);
    const signature = `${kind} ${labels.join()} ${shape}`;
    if (found !== undefined) {
      if (found.signature !== signature) throw new ServiceError("ERR_SERVICE_ARGUMENT", `the metric ${name} is there already as "${found.signature}"`);
      return found as Family<S>;
    }
    if (!METRIC_NAME.test(name)) throw new ServiceError("ERR_SERVICE_ARGUMENT", `${JSON.stringify(name)} is no name of a metric`);
    for (const label of labels) {
      if (!LABEL_NAME.test(label) || label === "le" || labels.indexOf(label) !== labels.lastIndexOf(label))
        throw new ServiceError("ERR_SERVICE_ARGUMENT", `${JSON.stringify(label)} is no name of a label of ${name}`);
    }
    const family = new Family(kind, name, help, labels, options.maxSeries ?? DEFAULT_MAX_SERIES, signature, make);
    this.#families.set(name, family);
    return family;
  }
}

/** What one set of label values counts. */
interface Series {
  /** Appends the sample lines. @param labels `a="1",b="2"` or nothing */
  write(lines: string[], name: string, labels: string): void;
}

class Family<S extends Series> {
  readonly signature: string;
  readonly #kind: Kind;
  readonly #name: string;
  readonly #help: string;
  readonly #labels: readonly string[];
  readonly #maxSeries: number;
  readonly #make: () => S;
  readonly #series = new Map<string, { readonly labels: string; readonly series: S }>();

  constructor(kind: Kind, name: string, help: string, labels: readonly string[], maxSeries: number, signature: string, make: () => S) {
    this.#kind = kind;
    this.#name = name;
    this.#help = help;
    this.#labels = labels;
    this.#maxSeries = maxSeries;
    this.signature = signature;
    this.#make = make;
  }

  /** The series without labels, which is there from the start; or, of a metric with labels, what has {@link at} alone. */
  view(): S & { with(...values: readonly string[]): never } {
    const series = this.#labels.length === 0 ? this.at([]) : this.#make();
    return Object.assign(series, { with: (...values: readonly string[]) => this.at(values) as never });
  }

  at(values: readonly string[]): S {
    // A separator that UTF-8 text from the network does not contain keeps ("a", "bc") and ("ab", "c") apart.
    const key = values.length === 1 ? (values[0] ?? "") : values.join("\u{0}");
    const found = this.#series.get(key);
    if (found !== undefined) return found.series;
    if (values.length !== this.#labels.length)
      throw new ServiceError("ERR_SERVICE_ARGUMENT", `${this.#name} has ${this.#labels.length} labels, found ${values.length} values`);
    if (this.#series.size >= this.#maxSeries && values.some((value) => value !== OVERFLOW)) return this.at(values.map(() => OVERFLOW));
    const series = this.#make();
    this.#series.set(key, { series, labels: this.#labels.map((label, at) => `${label}="${escapeLabel(values[at] ?? "")}"`).join(",") });
    return series;
  }

  write(lines: string[]): void {
    if (this.#series.size === 0) return;
    lines.push(`# HELP ${this.#name} ${escapeHelp(this.#help)}\n# TYPE ${this.#name} ${this.#kind}\n`);
    for (const { labels, series } of this.#series.values()) series.write(lines, this.#name, labels);
  }
}

class Value implements Series {
  readonly #kind: Kind;
  #value = 0;

  constructor(kind: Kind) {
    this.#kind = kind;
  }

  inc(by = 1): void {
    if (!(by >= 0)) throw new ServiceError("ERR_SERVICE_ARGUMENT", `a ${this.#kind} is raised by ${by}, which is not 0 or more`);
    this.#value += by;
  }

  add(by: number): void {
    this.#value += by;
  }

  set(value: number): void {
    this.#value = value;
  }

  write(lines: string[], name: string, labels: string): void {
    lines.push(sample(name, labels, this.#value));
  }
}

class Buckets implements Series {
  readonly #bounds: readonly number[];
  readonly #counts: number[];
  #sum = 0;

  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.#counts = Array.from({ length: bounds.length + 1 }, () => 0);
  }

  observe(value: number): void {
    const bounds = this.#bounds;
    let at = 0;
    // NaN belongs to no bucket but the last.
    while (at < bounds.length && !(value <= (bounds[at] ?? 0))) at++;
    this.#counts[at] = (this.#counts[at] ?? 0) + 1;
    this.#sum += value;
  }

  write(lines: string[], name: string, labels: string): void {
    const lead = labels === "" ? "" : `${labels},`;
    let below = 0;
    for (const [at, count] of this.#counts.entries()) {
      below += count;
      lines.push(sample(`${name}_bucket`, `${lead}le="${numberText(this.#bounds[at] ?? Number.POSITIVE_INFINITY)}"`, below));
    }
    lines.push(sample(`${name}_sum`, labels, this.#sum), sample(`${name}_count`, labels, below));
  }
}

function sample(name: string, labels: string, value: number): string {
  return labels === "" ? `${name} ${numberText(value)}\n` : `${name}{${labels}} ${numberText(value)}\n`;
}

function numberText(value: number): string {
  return Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf";
}

function escapeLabel(value: string): string {
  return /["\\\n]/.test(value) ? value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n") : value;
}

function escapeHelp(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}
