import { decodeUtf8, encodeJson, isSealpodError, messageOf, type JsonObject } from "@sealpod/core";
import { decodeAttestationToken, parseJwks, TOKEN_CHECKS, verifyAttestationToken, type TokenKeys } from "@sealpod/attestation";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { readText } from "../workspace.ts";
import type { TokenInput } from "./verify-input.ts";
import type { CheckLine, VerifyFlags, VerifyOutcome } from "./verify-options.ts";
import { checkClaims, readRequirements } from "./verify-requirements.ts";
import { readTrust } from "./verify-trust.ts";

/** The part of `fetch` that is used. */
export type FetchKeys = (url: string, init: RequestInit) => Promise<Response>;

const MAX_KEYS = 1024 * 1024;
const FETCH_TIMEOUT = 10_000;

/** Flags that speak of reports: what they ask, a token cannot answer, and to leave them out in silence would be a check that nobody makes. */
const REPORT_FLAGS = {
  certs: "--certs",
  endorsement: "--endorsement",
  crl: "--crl",
  requireCrl: "--require-crl",
  policy: "--policy",
  trust: "--trust",
} as const;

/**
 * Verifies a token under the keys that the command line names.
 * @throws {CliError} and the errors of files on the command line; what is the matter with the token itself is the outcome
 */
export async function verifyToken(input: TokenInput, flags: VerifyFlags, context: CliContext, fetch: FetchKeys): Promise<VerifyOutcome> {
  for (const [flag, name] of Object.entries(REPORT_FLAGS) as [keyof typeof REPORT_FLAGS, string][]) {
    if (flags[flag] !== undefined)
      throw new CliError("ERR_CLI_USAGE", `${name} is for reports, and this is a token`, { hint: "A token has the claims of its issuer alone." });
  }
  const requirements = await readRequirements(flags, context);
  const { clock } = await readTrust({ ...(flags.at !== undefined && { at: flags.at }) }, context);
  const passed = new Map<string, string>();
  let claims: JsonObject | undefined;
  try {
    ({ claims } = decodeAttestationToken(input.token));
    const keys = await readKeys(flags, context, fetch);
    if (keys === undefined) {
      const iss = claims["iss"];
      return {
        ...outcome(input, claims, [{ title: "token", checks: tokenChecks(passed, "key", "no keys were given, so nothing says who made this token") }]),
        verdict: "refused",
        meaning: "no keys were given: the claims are anybody's",
        hint: `Name the keys of the issuer that you trust: --jwks FILE|URL${typeof iss === "string" ? `. The token names ${printable(iss)} as its issuer; only if you trust that: --issuer` : ""}`,
      };
    }
    const verified = verifyAttestationToken(input.token, {
      keys,
      ...(flags.issuer !== undefined && { issuer: flags.issuer }),
      clock,
      observe: ({ name, found }) => passed.set(name, found),
    });
    const required = checkClaims(verified.claims, requirements);
    const groups = [
      { title: "token", checks: tokenChecks(passed, undefined, "") },
      { title: "requirements", checks: required },
    ];
    const common = { ...outcome(input, verified.claims, groups), fieldsVerified: true, root: verified.issuer };
    const failed = required.filter((check) => check.outcome === "failed");
    const [first] = failed;
    if (first !== undefined) {
      return {
        ...common,
        verdict: "refused",
        meaning: `${first.name}: ${first.found}${failed.length === 1 ? "" : ` (and ${failed.length - 1} more)`}`,
        hint: "The token is genuine, but its claims are not what was asked for.",
      };
    }
    return { ...common, verdict: "verified", meaning: meaningOf(verified.issuer, verified.claims), hint: undefined };
  } catch (error) {
    const check = isSealpodError(error) ? error.details["check"] : undefined;
    // Other errors are about the command line and the files that it names.
    if (!isSealpodError(error) || !error.code.startsWith("ERR_ATTESTATION_TOKEN") || typeof check !== "string") throw error;
    return {
      ...outcome(input, claims, [{ title: "token", checks: tokenChecks(passed, check, error.message) }]),
      verdict: error.row.exit === 1 ? "malformed" : "refused",
      meaning: error.message,
      hint: error.hint,
      code: error.code,
    };
  }
}

function outcome(input: TokenInput, claims: JsonObject | undefined, groups: VerifyOutcome["groups"]): Omit<VerifyOutcome, "verdict" | "meaning" | "hint"> {
  return {
    form: input.form,
    groups,
    fields: claims === undefined ? undefined : Object.entries(claims).map(([name, value]) => [name, typeof value === "string" ? value : encodeJson(value)]),
    fieldsVerified: false,
    root: undefined,
    code: undefined,
  };
}

function tokenChecks(passed: ReadonlyMap<string, string>, failed: string | undefined, problem: string): readonly CheckLine[] {
  return TOKEN_CHECKS.map((name): CheckLine => {
    const found = passed.get(name);
    if (found !== undefined) return { name, outcome: "passed", found };
    return name === failed ? { name, outcome: "failed", found: problem } : { name, outcome: "skipped", found: "not reached" };
  });
}

function meaningOf(issuer: string, claims: JsonObject): string {
  const root = claims["x-sealpod-root"];
  const word = `under the keys that were given: ${printable(issuer)} vouches for these claims`;
  return root === "emulator" ? `${word}, which are about EMULATED evidence: no hardware protection` : word;
}

async function readKeys(flags: VerifyFlags, context: CliContext, fetch: FetchKeys): Promise<TokenKeys | undefined> {
  const { jwks, issuer } = flags;
  if (jwks !== undefined && !/^https?:\/\//i.test(jwks)) {
    const { text, name } = await readText(jwks, context);
    return parseJwks(text, name);
  }
  // Where the services of Azure and of Sealpod have them (specs/attestation.md section 4.1).
  const url = jwks ?? (issuer === undefined ? undefined : `${issuer.replace(/\/$/, "")}/certs`);
  if (url === undefined) return undefined;
  if (!URL.canParse(url) || new URL(url).protocol !== "https:") {
    // Keys that anyone on the way may have put there would verify anyone's token.
    throw new CliError("ERR_CLI_USAGE", `${url}: keys are fetched over https alone`);
  }
  return parseJwks(await fetchText(url, context, fetch), url);
}

async function fetchText(url: string, context: CliContext, fetch: FetchKeys): Promise<string> {
  const fail = (problem: string, cause?: unknown): CliError =>
    new CliError("ERR_CLI_FILE", `the keys at ${url} cannot be fetched: ${problem}`, {
      cause,
      hint: "Check the name, and that this machine trusts the server's certificate (NODE_EXTRA_CA_CERTS); or save the keys and give the file with --jwks.",
    });
  try {
    const signal = AbortSignal.any([context.signal, AbortSignal.timeout(FETCH_TIMEOUT)]);
    // A redirect could lead from the name that the caller trusts to any other.
    const response = await fetch(url, { redirect: "error", headers: { accept: "application/json" }, signal });
    if (response.status !== 200) throw fail(`the answer is ${response.status}`);
    const chunks: Uint8Array[] = [];
    let size = 0;
    for await (const chunk of response.body ?? []) {
      size += chunk.length;
      if (size > MAX_KEYS) throw fail(`the answer has more than ${MAX_KEYS} bytes`);
      chunks.push(chunk);
    }
    return decodeUtf8(new Uint8Array(Buffer.concat(chunks)), url);
  } catch (cause) {
    if (isSealpodError(cause)) throw cause;
    const inner = cause instanceof Error && cause.cause instanceof Error ? ` (${cause.cause.message})` : "";
    throw fail(`${messageOf(cause)}${inner}`, cause);
  }
}

function printable(text: string): string {
  // eslint-disable-next-line no-control-regex -- exactly these
  return text.slice(0, 300).replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, "\ufffd");
}
