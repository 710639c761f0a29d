import { verifyToken } from "../attest/verify-claims.ts";
import { verifyEvidence } from "../attest/verify-evidence.ts";
import { recogniseEvidence } from "../attest/verify-input.ts";
import type { VerifyFlags } from "../attest/verify-options.ts";
import { formatOutcome, outcomeJson } from "../attest/verify-output.ts";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { readBytes, readStdin } from "../workspace.ts";

const EXITS = { verified: EXIT.ok, refused: EXIT.refused, malformed: EXIT.failed } as const;

/** `sealpod attest verify`. */
export const run: Verb<VerifyFlags> = async (options, [file = ""], context) => {
  const name = file === "-" ? "standard input" : file;
  const input = recogniseEvidence(file === "-" ? await readStdin(context) : await readBytes(file, context), name);
  if (input.kind === "report") {
    for (const flag of ["jwks", "issuer"] as const) {
      if (options[flag] !== undefined) throw new CliError("ERR_CLI_USAGE", `--${flag} is for tokens, and ${name} is: ${input.form}`);
    }
  }
  const outcome =
    input.kind === "token" ? await verifyToken(input, options, context, async (url, init) => fetch(url, init)) : await verifyEvidence(input, options, context);
  context.stdout.write(options.json === true ? outcomeJson(outcome, name) : formatOutcome(outcome, name));
  return EXITS[outcome.verdict];
};
