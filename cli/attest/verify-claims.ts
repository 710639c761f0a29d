import { decodeUtf8, encodeJson, isSealpodError, messageOf, type JsonObject, type JsonValue } from "@sealpod/core";
import { decodeAttestationToken, parseJwks, TOKEN_CHECKS, verifyAttestationToken, type TokenKeys } from "@sealpod/attestation";
import { HOST_VMPL } from "@sealpod/snp";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { readText } from "../workspace.ts";
import { openService } from "./policy-options.ts";
import { guestSentences } from "./verify-output.ts";
import type { TokenInput } from "./verify-input.ts";
import type { CheckLine, VerifyFlags, VerifyOutcome } from "./verify-options.ts";
import { checkClaims, debugClaim, readRequirements, type Requirements } from "./verify-requirements.ts";
import { clockOf, trustedNames } from "./verify-trust.ts";

/** The part of `fetch` that is used. */
export type FetchKeys = (url: string, init: RequestInit) => Promise<Response>;

/** Which root the evidence rests on, in tokens of Sealpod's service. */
const ROOT_CLAIM = "x-sealpod-root";

const MAX_KEYS = 1024 * 1024;
const FETCH_TIMEOUT = 10_000;

/** Flags that speak of reports: what they ask, a token cannot answer, and to leave them out in silence would be a check that nobody makes. */
const REPORT_FLAGS = {
  certs: "--certs",
  endorsement: "--endorsement",
  crl: "--crl",
  requireCrl: "--require-crl",
  policy: "--policy",
  certcache: "--certcache",
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
  const clock = clockOf(flags, context);
  const trusted = trustedNames(flags);
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
    const root = checkRoot(verified.claims, trusted);
    const required = [root, ...checkClaims(verified.claims, requirements)];
    const groups = [
      { title: "token", checks: tokenChecks(passed, undefined, "") },
      { title: "requirements", checks: required },
    ];
    const emulated = verified.claims[ROOT_CLAIM] === "emulator";
    const common = { ...outcome(input, verified.claims, groups), fieldsVerified: true, root: verified.issuer, emulated };
    const failed = required.filter((check) => check.outcome === "failed");
    const [first] = failed;
    if (first !== undefined) {
      return {
        ...common,
        verdict: "refused",
        meaning: `${first.name}: ${first.found}${failed.length === 1 ? "" : ` (and ${failed.length - 1} more)`}`,
        hint: `The token is genuine, but its claims are not what was asked for.${root.outcome === "failed" ? rootHint(verified.claims) : ""}`,
      };
    }
    return { ...common, verdict: "verified", meaning: meaningOf(verified.issuer, verified.claims, flags, requirements), hint: undefined };
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
    emulated: false,
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

/** A root that a token names must be one that the caller named; AMD's is taken without a word. Azure's tokens name none: that service takes AMD's alone. */
function checkRoot(claims: JsonObject, trusted: ReadonlySet<string>): CheckLine {
  const found = claims[ROOT_CLAIM];
  if (found === undefined) return { name: "root", outcome: "skipped", found: `no claim ${ROOT_CLAIM}: which roots are good is the issuer's word` };
  if (typeof found === "string" && trusted.has(found)) return { name: "root", outcome: "passed", found: `the evidence rests on the root ${found}` };
  const expected = [...trusted].join(" or ");
  const kind = found === "amd" ? "" : ", which is not AMD's";
  return { name: "root", outcome: "failed", found: `the evidence rests on the root ${shown(found)}${kind}; expected ${expected}` };
}

function rootHint(claims: JsonObject): string {
  const found = claims[ROOT_CLAIM];
  if (typeof found !== "string") return "";
  if (found === "emulator") return " The EMULATED security processor protects nothing. To take its evidence all the same: --trust emulator";
  return ` If you trust that root: --trust ${printable(found)}`;
}

/** A genuine token about somebody's guest is worth nothing yet: the sentence names what was not asked. */
function meaningOf(issuer: string, claims: JsonObject, flags: VerifyFlags, { policy, runtimeData }: Requirements): string {
  const open: string[] = [];
  if (flags.issuer === undefined) open.push("whether this is the issuer that you mean (--issuer)");
  if (policy.measurements === "any") open.push("which code was launched (--measurement)");
  if (policy.hostData === "any") open.push("under which policy (--host-data)");
  if (policy.reportData === "any" && runtimeData === undefined) open.push("for whom and when (--report-data, --runtime-data)");
  if (claims["nonce"] !== undefined) open.push("whether the nonce is yours (compare it)");
  const root = claims[ROOT_CLAIM];
  const sentences = [
    `under the keys that were given: ${printable(issuer)} vouches for these claims`,
    ...(root === undefined || root === "amd" ? [] : [rootSentence(root)]),
    ...guestSentences(policy.debug === "any" && debugClaim(claims) !== false, policy.vmpls !== "any" && claims["x-ms-sevsnpvm-vmpl"] === HOST_VMPL),
    ...(open.length === 0 ? [] : [`Not asked: ${open.join("; ")}`]),
  ];
  return sentences.join(". ");
}

function rootSentence(root: JsonValue): string {
  return root === "emulator"
    ? "They are about EMULATED evidence: no hardware protection, and not hardware as AMD vouches for it"
    : `They rest on the root ${shown(root)}: that is not hardware as AMD vouches for it`;
}

function shown(value: JsonValue): string {
  return printable(encodeJson(value));
}

async function readKeys(flags: VerifyFlags, context: CliContext, fetch: FetchKeys): Promise<TokenKeys | undefined> {
  const { jwks, issuer, ca } = flags;
  const isFile = jwks !== undefined && !/^https?:\/\//i.test(jwks);
  if (ca !== undefined && (isFile || (jwks === undefined && issuer === undefined))) {
    throw new CliError("ERR_CLI_USAGE", "--ca is for keys that are fetched", { hint: "Give --jwks URL or --issuer URL beside it, or leave it out." });
  }
  if (isFile) {
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
  return parseJwks(ca === undefined ? await fetchText(url, context, fetch) : await fetchUnder(ca, url, context), url);
}

/** As `attest policy get --ca`: under this authority and no other. */
async function fetchUnder(ca: string, url: string, context: CliContext): Promise<string> {
  // No state directory: a running laptop would be asked for an owner's token, which keys do not need.
  const service = { endpoint: new URL(url).origin, type: "", apiVersion: "", ca, state: "/dev/null" };
  const { fetch } = await openService(service, context);
  const fail = (problem: string, cause?: unknown): CliError =>
    new CliError("ERR_CLI_FILE", `the keys at ${url} cannot be fetched: ${problem}`, {
      cause,
      hint: `Check the name, and that ${ca} is the authority of the server's certificate; or save the keys and give the file with --jwks.`,
    });
  let answer: Awaited<ReturnType<typeof fetch>>;
  try {
    answer = await fetch(url, { method: "GET", headers: { accept: "application/json" } });
  } catch (cause) {
    throw fail(messageOf(cause), cause);
  }
  if (answer.status !== 200) throw fail(`the answer is ${answer.status}`);
  return answer.text;
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
