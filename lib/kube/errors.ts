import { type ErrorTable, SealpodError, type SealpodErrorOptions } from "@sealpod/core";
import { formatProblem, type Problem } from "./problem.ts";
import type { ResourceList } from "./resources.ts";

/** Codes of {@link KubeError}. */
export type KubeErrorCode = "ERR_KUBE_YAML" | "ERR_KUBE_LIMIT" | "ERR_KUBE_MANIFEST" | "ERR_KUBE_EDIT";

/** Rows of `lib/kube`. */
export const KUBE_ERRORS: ErrorTable<KubeErrorCode> = {
  ERR_KUBE_YAML: { action: "caller", exit: 1, http: 400, summary: "Text is not YAML 1.2, or uses a YAML feature that manifests do not need." },
  ERR_KUBE_LIMIT: { action: "refused", exit: 1, http: 413, summary: "A manifest is larger, deeper or has more aliases than a named limit." },
  ERR_KUBE_MANIFEST: { action: "caller", exit: 1, http: 400, summary: "A manifest has an unsupported kind or field, a wrong type or a missing field." },
  ERR_KUBE_EDIT: { action: "caller", exit: 1, http: 400, summary: "An annotation cannot be set without changing other parts of the file." },
};

/** Problems shown in the message; the rest is in {@link KubeError.problems}. */
const SHOWN_PROBLEMS = 40;

/** Errors of `lib/kube`; {@link problems} lists every problem that was found, in the order of the file. */
export class KubeError extends SealpodError<KubeErrorCode> {
  readonly problems: readonly Problem[];
  /**
   * What can be looked at further, to find more problems: the resources that have none but unknown fields. Undefined if they could
   * refer to something that was not read.
   */
  readonly sound: ResourceList | undefined;

  constructor(code: KubeErrorCode, problems: readonly Problem[], options: SealpodErrorOptions & { readonly sound?: ResourceList | undefined } = {}) {
    const shown = problems.slice(0, SHOWN_PROBLEMS).map((problem) => formatProblem(problem));
    if (problems.length > SHOWN_PROBLEMS) shown.push(`and ${problems.length - SHOWN_PROBLEMS} more`);
    super(KUBE_ERRORS, code, shown.join("\n"), options);
    this.problems = problems;
    this.sound = options.sound;
  }
}
