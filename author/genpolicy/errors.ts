import { type ErrorTable, SealpodError, type SealpodErrorOptions } from "@sealpod/core";
import { formatProblem, type Problem } from "@sealpod/kube";

/** Codes of {@link GenpolicyError}. */
export type GenpolicyErrorCode =
  | "ERR_GENPOLICY_OPTION"
  | "ERR_GENPOLICY_UNSUPPORTED"
  | "ERR_GENPOLICY_FILE"
  | "ERR_GENPOLICY_SETTINGS"
  | "ERR_GENPOLICY_INITDATA"
  | "ERR_GENPOLICY_RULES"
  | "ERR_GENPOLICY_MANIFEST"
  | "ERR_GENPOLICY_NO_WORKLOAD"
  | "ERR_GENPOLICY_IMAGE";

/** Rows of `author/genpolicy`. */
export const GENPOLICY_ERRORS: ErrorTable<GenpolicyErrorCode> = {
  ERR_GENPOLICY_OPTION: { action: "caller", exit: 2, http: 400, summary: "A command-line option is unknown, lacks its value or does not fit another." },
  ERR_GENPOLICY_UNSUPPORTED: { action: "caller", exit: 2, http: 501, summary: "An option of the known tool that this version does not support yet." },
  ERR_GENPOLICY_FILE: { action: "caller", exit: 1, http: 404, summary: "An input file cannot be read, or the output cannot be written." },
  ERR_GENPOLICY_SETTINGS: { action: "caller", exit: 1, http: 400, summary: "The settings file is not JSON, or a setting is missing or has the wrong type." },
  ERR_GENPOLICY_INITDATA: { action: "caller", exit: 1, http: 400, summary: "The initdata template is not TOML, or not version 0.1.0 of initdata." },
  ERR_GENPOLICY_RULES: { action: "caller", exit: 1, http: 400, summary: "The rules file is not a text of package agent_policy." },
  ERR_GENPOLICY_MANIFEST: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "A workload asks for something that a policy cannot describe, or refers to something that is not there.",
  },
  ERR_GENPOLICY_NO_WORKLOAD: { action: "caller", exit: 1, http: 400, summary: "The YAML holds nothing that makes pods." },
  ERR_GENPOLICY_IMAGE: { action: "caller", exit: 1, http: 404, summary: "A container image cannot be found or read." },
};

/** Errors of `author/genpolicy`. */
export class GenpolicyError extends SealpodError<GenpolicyErrorCode> {
  /** Problems of the manifest, in the order of the file; empty for other errors. */
  readonly problems: readonly Problem[];

  constructor(code: GenpolicyErrorCode, message: string | readonly Problem[], options?: SealpodErrorOptions) {
    super(GENPOLICY_ERRORS, code, typeof message === "string" ? message : message.map((problem) => formatProblem(problem)).join("\n"), options);
    this.problems = typeof message === "string" ? [] : message;
  }
}
