import { verifyToken } from "../attest/verify-claims.ts";
import { verifyEvidence } from "../attest/verify-evidence.ts";
import { recogniseEvidence, type ReportInput, type TokenInput } from "../attest/verify-input.ts";
import type { VerifyFlags } from "../attest/verify-options.ts";
import { formatOutcome, outcomeJson } from "../attest/verify-output.ts";
import { policyTemplate } from "../attest/verify-print-policy.ts";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { readBytes, readStdin } from "../workspace.ts";

const EXITS = { verified: EXIT.ok, refused: EXIT.refused, malformed: EXIT.failed } as const;

/** `sealpod attest verify`. */
export const run: Verb<VerifyFlags> = async (options, [file = ""], context) => {
  if (options.printPolicy === true) return printPolicy(options, file, context);
  if (file === "") throw new CliError("ERR_CLI_USAGE", "missing argument 'file': the evidence", { hint: "- is standard input." });
  const name = nameOf(file);
  const input = await readEvidence(file, context);
  if (input.kind === "report") {
    for (const flag of ["jwks", "issuer", "ca"] as const) {
      if (options[flag] !== undefined) throw new CliError("ERR_CLI_USAGE", `--${flag} is for tokens, and ${name} is: ${input.form}`);
    }
  }
  const outcome =
    input.kind === "token" ? await verifyToken(input, options, context, async (url, init) => fetch(url, init)) : await verifyEvidence(input, options, context);
  context.stdout.write(options.json === true ? outcomeJson(outcome, name) : formatOutcome(outcome, name));
  return EXITS[outcome.verdict];
};

async function printPolicy(options: VerifyFlags, file: string, context: CliContext): Promise<number> {
  const input = file === "" ? undefined : await readEvidence(file, context);
  if (input?.kind === "token") throw new CliError("ERR_CLI_USAGE", `--print-policy is for reports, and ${nameOf(file)} is: ${input.form}`);
  const { document, notes } = await policyTemplate(input, options, context);
  for (const note of notes) context.stderr.write(`note: ${note}\n`);
  context.stdout.write(document);
  return EXIT.ok;
}

async function readEvidence(file: string, context: CliContext): Promise<ReportInput | TokenInput> {
  return recogniseEvidence(file === "-" ? await readStdin(context) : await readBytes(file, context), nameOf(file));
}

function nameOf(file: string): string {
  return file === "-" ? "standard input" : file;
}
