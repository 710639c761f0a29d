import { sha384 } from "@sealpod/core";
import { LaunchMeasurement, type LaunchPage, PAGE_SIZE } from "./launch-digest.ts";

/** Where a page of a launch comes from. */
export interface PageSource {
  /** For people: `OVMF image`, `section SNP_SECRETS`. */
  readonly name: string;
  /** Which of the launch's files the content is from: `ovmf`, `igvm`, or a name that the caller gave. */
  readonly file?: string;
  /** Offset of the content in that file, in bytes. */
  readonly offset?: number;
}

/** A page of a launch with its source. */
export type SourcedPage = LaunchPage & { readonly source: PageSource };

/** What a page adds to a launch measurement. */
export interface ExplainedPage {
  readonly kind: LaunchPage["kind"];
  /** Guest physical address in bytes. */
  readonly gpa: bigint;
  readonly source: PageSource | undefined;
  /** SHA-384 of the content, 48 bytes; undefined if only kind and place are measured. */
  readonly contentsDigest: Uint8Array | undefined;
  /** The launch digest after this page, 48 bytes. */
  readonly digestAfter: Uint8Array;
}

/**
 * Each page with what it adds and the digest after it; the last digest is the launch measurement.
 * @param measurement what was measured before; a launch from its beginning if not said
 * @throws {SnpError} ERR_SNP_PAGE
 */
export function* explainLaunch(
  pages: Iterable<LaunchPage & { readonly source?: PageSource }>,
  measurement: LaunchMeasurement = new LaunchMeasurement(),
): Generator<ExplainedPage> {
  for (const page of pages) yield explainPage(measurement, page);
}

/**
 * Adds one page to a measurement and says what it added, for callers whose pages come piece by piece.
 * @throws {SnpError} ERR_SNP_PAGE
 */
export function explainPage(measurement: LaunchMeasurement, page: LaunchPage & { readonly source?: PageSource }): ExplainedPage {
  const digestAfter = measurement.add(page).digest();
  const contentsDigest = page.kind === "normal" || page.kind === "vmsa" ? sha384(page.contents) : undefined;
  return { kind: page.kind, gpa: page.gpa, source: page.source, contentsDigest, digestAfter };
}

/** Pages of one kind and source that follow one another in memory and in their file. */
export interface LaunchRun {
  readonly kind: LaunchPage["kind"];
  /** Address of the first page. */
  readonly gpa: bigint;
  /** Source of the first page. */
  readonly source: PageSource | undefined;
  readonly count: number;
  /** Of the only page; undefined for more than one and if only kind and place are measured. */
  readonly contentsDigest: Uint8Array | undefined;
  /** The launch digest after the last page. */
  readonly digestAfter: Uint8Array;
}

/** Folds explained pages into runs, for people. */
export class LaunchFold {
  readonly #runs: LaunchRun[] = [];

  add(page: ExplainedPage): this {
    const last = this.#runs.at(-1);
    if (last !== undefined && continues(last, page)) {
      this.#runs[this.#runs.length - 1] = { ...last, count: last.count + 1, contentsDigest: undefined, digestAfter: page.digestAfter };
    } else this.#runs.push({ ...page, count: 1 });
    return this;
  }

  get runs(): readonly LaunchRun[] {
    return this.#runs;
  }
}

function continues(run: LaunchRun, page: ExplainedPage): boolean {
  if (run.kind !== page.kind || run.source?.name !== page.source?.name || run.source?.file !== page.source?.file) return false;
  const step = run.count * PAGE_SIZE;
  const place = (offset: number | undefined): number | undefined => (offset === undefined ? undefined : offset + step);
  if (place(run.source?.offset) !== page.source?.offset) return false;
  // The VMSAs of all vCPUs stand at one address.
  return page.kind === "vmsa" && page.gpa === run.gpa ? true : page.gpa === run.gpa + BigInt(step);
}
