import type { JsonObject } from "@sealpod/core";
import type { EvaluationObserver, Place } from "@sealpod/rego";
import { location } from "./output.ts";

/** One observer that passes everything on to several. */
export function observers(list: readonly EvaluationObserver[]): EvaluationObserver | undefined {
  if (list.length <= 1) return list[0];
  return {
    enter: (body) => list.forEach((item) => item.enter(body)),
    leave: (body, held) => list.forEach((item) => item.leave(body, held)),
    statement: (place) => list.forEach((item) => item.statement(place)),
  };
}

/** Remembers which rule bodies and statements ran. */
export class Coverage implements EvaluationObserver {
  readonly #seen = new Set<Place>();

  enter(body: Place): void {
    this.#seen.add(body);
  }

  leave(): void {
    // What a body came to says nothing about its lines.
  }

  statement(place: Place): void {
    this.#seen.add(place);
  }

  /** The report in the shape of `opa test --coverage`. A line counts where a rule body or a statement starts on it. */
  report(places: readonly Place[]): CoverageReport {
    const files = new Map<string, Map<number, boolean>>();
    for (const place of places) {
      const { file, line } = place.position;
      let lines = files.get(file);
      if (lines === undefined) files.set(file, (lines = new Map()));
      lines.set(line, lines.get(line) === true || this.#seen.has(place));
    }
    const total = { covered: 0, missed: 0 };
    const report: Record<string, JsonObject> = {};
    for (const [file, lines] of [...files].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
      const rows = [...lines].toSorted(([a], [b]) => a - b);
      const covered = rows.filter(([, hit]) => hit).map(([line]) => line);
      const missed = rows.filter(([, hit]) => !hit).map(([line]) => line);
      total.covered += covered.length;
      total.missed += missed.length;
      report[file] = {
        ...(covered.length === 0 ? {} : { covered: ranges(covered) }),
        ...(missed.length === 0 ? {} : { not_covered: ranges(missed) }),
        covered_lines: covered.length,
        not_covered_lines: missed.length,
        coverage: percent(covered.length, missed.length),
      };
    }
    const coverage = percent(total.covered, total.missed);
    return { coverage, json: { files: report, covered_lines: total.covered, not_covered_lines: total.missed, coverage } };
  }
}

/** What {@link Coverage} found. */
export interface CoverageReport {
  /** Percent of lines, rounded down to two digits: 100 means all. */
  readonly coverage: number;
  readonly json: JsonObject;
}

function percent(covered: number, missed: number): number {
  return covered + missed === 0 ? 100 : Math.floor((covered / (covered + missed)) * 10_000) / 100;
}

/** Rising line numbers as ranges of lines that follow one another. */
function ranges(lines: readonly number[]): readonly JsonObject[] {
  const found: { start: number; end: number }[] = [];
  for (const line of lines) {
    const last = found.at(-1);
    if (last?.end === line - 1) last.end = line;
    else found.push({ start: line, end: line });
  }
  return found.map(({ start, end }) => ({ start: { row: start }, end: { row: end } }));
}

/** What one rule body cost. */
export interface ProfileRow {
  readonly body: Place;
  readonly evaluations: number;
  /** Milliseconds in the body without the bodies it called. */
  readonly self: number;
  /** Milliseconds from its start to its end; of a function that calls itself, each call counts. */
  readonly total: number;
}

interface Frame {
  readonly body: Place;
  readonly start: number;
  children: number;
}

/** Measures the time of rule bodies. */
export class Profile implements EvaluationObserver {
  readonly #elapsed: () => number;
  readonly #rows = new Map<Place, { evaluations: number; self: number; total: number }>();
  #open: Frame[] = [];

  constructor(elapsed: () => number) {
    this.#elapsed = elapsed;
  }

  enter(body: Place): void {
    this.#open.push({ body, start: this.#elapsed(), children: 0 });
  }

  leave(): void {
    const frame = this.#open.pop();
    if (frame === undefined) return;
    const total = this.#elapsed() - frame.start;
    const row = this.#rows.get(frame.body) ?? { evaluations: 0, self: 0, total: 0 };
    row.evaluations++;
    row.self += total - frame.children;
    row.total += total;
    this.#rows.set(frame.body, row);
    const parent = this.#open.at(-1);
    if (parent !== undefined) parent.children += total;
  }

  statement(): void {
    // The time is taken by body: a reading of the clock per statement would measure the clock.
  }

  /** The costliest bodies by their own time, at most `limit`. */
  top(limit: number): readonly ProfileRow[] {
    const rows = [...this.#rows].map(([body, row]) => ({ body, ...row }));
    return rows.toSorted((a, b) => b.self - a.self || b.evaluations - a.evaluations).slice(0, limit);
  }
}

/** A row of a profile in the shape of `opa eval --profile`, with the rule's name and the time with what it called. */
export function profileJson({ body, evaluations, self, total }: ProfileRow): JsonObject {
  return {
    total_time_ns: Math.round(self * 1e6),
    cumulative_time_ns: Math.round(total * 1e6),
    num_eval: evaluations,
    rule: body.rule,
    location: location(body.position),
  };
}
