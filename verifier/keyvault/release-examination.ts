import { encodeJson, isSealpodError, type Clock, type JsonObject } from "@sealpod/core";
import { authoritiesFor, evaluateReleasePolicy, trimSlash, type ClaimFinding, type ReleasePolicy } from "@sealpod/release-policy";
import type { IssuerKeys } from "./issuer-keys.ts";
import { findWrappingKey, type WrappingKey } from "./key-wrap.ts";
import type { PolicyMemory } from "./policy-memory.ts";
import type { AuditCheck, KeyRecord } from "./store/types.ts";
import { audiencesOf, checkToken, parseToken, type UnverifiedToken } from "./token.ts";

/** The claim with which Sealpod's attestation service says what its evidence rests on. */
export const EVIDENCE_ROOT_CLAIM = "x-sealpod-root";

/** What attestation tokens are held against, beside the policy of the key. */
export interface ExaminationContext {
  readonly keys: IssuerKeys;
  readonly policies: PolicyMemory;
  readonly clock: Clock;
  /** Values of {@link EVIDENCE_ROOT_CLAIM} that this vault takes, e.g. `amd`; `emulator` only where someone wrote it down. */
  readonly evidenceRoots: readonly string[];
  /**
   * The attestation services whose keys are fetched; any that a policy names if there are none. Policies are written by importers of keys: where those are not trusted with what this
   * service can reach by https, this is the list to have. Addresses are not judged: names are what TLS vouches for, and what a name stands for today it need not tomorrow.
   */
  readonly authorities?: readonly string[];
  /** `aud` values that attestation tokens may have, beside the URL of the vault. By custom they have none. */
  readonly audiences?: readonly string[];
}

/** What is looked at. */
export interface ExaminationSubject {
  readonly key: KeyRecord;
  /** The attestation token. */
  readonly target: string;
  /** Base URL of the vault. */
  readonly base: string | undefined;
}

/** Told of each check in its order. One that throws on a problem ends the examination there. */
export type ExaminationNote = (check: AuditCheck, what: string, problem: string | undefined) => void;

/** What an examination came by, for the audit; filled as it goes. */
export interface Progress {
  /** Issuer of the token, as the token claims it. */
  authority: string;
  findings: readonly ClaimFinding[];
  token: UnverifiedToken | undefined;
  policy: ReleasePolicy | undefined;
}

/** Nothing found yet. */
export function noProgress(): Progress {
  return { authority: "", findings: [], token: undefined, policy: undefined };
}

/**
 * Looks at all that decides whether a key goes to who presents a token: the key, the token, its authority, its evidence, the policy, the wrapping key. This is the one place where
 * that is decided, for those who release and for those who explain; who releases passes a note that throws.
 * @returns the wrapping key if there is one: it means nothing unless no problem was noted
 */
export async function examine(
  context: ExaminationContext,
  subject: ExaminationSubject,
  progress: Progress,
  note: ExaminationNote,
): Promise<WrappingKey | undefined> {
  const { key, target, base } = subject;
  note("key", "the key is enabled", key.enabled ? undefined : "the key is disabled");
  note("key", "the key is exportable", key.exportable && key.releasePolicy !== undefined ? undefined : "the key is not exportable");
  // Without a policy there is nothing that a token could be held against.
  if (key.releasePolicy === undefined) return undefined;
  const policy = context.policies.parse(key.releasePolicy.text);
  progress.policy = policy;
  const token = attempt("token", "the token is a JWS with JSON claims", note, () => parseToken(target));
  if (token === undefined) return undefined;
  progress.token = token;
  const { claims } = token;
  const issuer = claims["iss"];
  if (typeof issuer !== "string") note("authority", "the token names its authority", "the token has no iss claim");
  else {
    progress.authority = issuer.slice(0, 300);
    await examineAuthority(context, { token, issuer, policy, vault: key.vault }, note);
  }

  checkAudience(claims, [...(base === undefined ? [] : [base]), ...(context.audiences ?? [])], note);
  const root = claims[EVIDENCE_ROOT_CLAIM];
  const isRoot = root === undefined || (typeof root === "string" && context.evidenceRoots.includes(root));
  note(
    "evidence-root",
    "its evidence rests on a root that this vault takes",
    isRoot ? undefined : `the token rests on root ${encodeJson(root).slice(0, 100)}, this vault takes ${context.evidenceRoots.join(", ") || "none"}`,
  );
  const { satisfied, findings } = evaluateReleasePolicy(typeof issuer === "string" ? authoritiesFor(policy, issuer) : [], claims);
  progress.findings = findings;
  note("policy", "its claims satisfy the release policy", satisfied ? undefined : describeFindings(findings));
  return attempt("wrapping-key", "the token has a wrapping key", note, () => findWrappingKey(claims));
}

async function examineAuthority(
  context: ExaminationContext,
  subject: { readonly token: UnverifiedToken; readonly issuer: string; readonly policy: ReleasePolicy; readonly vault: string },
  note: ExaminationNote,
): Promise<void> {
  const { keys, clock } = context;
  const { token, issuer, policy, vault } = subject;
  // The address to fetch keys from comes from the policy: a token does not choose who vouches for it.
  const [first] = authoritiesFor(policy, issuer);
  const expected = policy.anyOf.map((item) => item.authority).join(", ");
  const problem = first === undefined ? `the token is of ${JSON.stringify(issuer.slice(0, 300))}, the policy expects ${expected}` : undefined;
  note("authority", "the release policy names the token's authority", problem);
  if (first === undefined) return;
  const allowed = context.authorities ?? [];
  const isAllowed = allowed.length === 0 || allowed.some((authority) => trimSlash(authority) === trimSlash(first.authority));
  note("authority", "this vault may ask it", isAllowed ? undefined : `the authority ${first.authority} is none that this service is configured to ask`);
  if (!isAllowed) return;
  const expectation = { issuer: first.authority, role: "authority", vault, keys, clock } as const;
  try {
    await checkToken(token, expectation, (what, problem) =>
      note("token", `token: ${what}`, problem === undefined ? undefined : `the token is refused: ${problem}`),
    );
  } catch (error) {
    // Without the authority's keys there is no verdict on the signature; a note that throws is passed on.
    if (!isSealpodError(error) || error.code !== "ERR_KEYVAULT_ISSUER") throw error;
    note("issuer", "the authority's keys are to be had", error.message);
  }
}

/** A token that says whom it is for is for nobody else: elsewhere, whoever it was shown to could present it here. */
function checkAudience({ aud }: JsonObject, accepted: readonly string[], note: ExaminationNote): void {
  if (aud === undefined) return;
  const isForUs = audiencesOf(aud)?.some((value) => accepted.some((own) => trimSlash(own) === trimSlash(value))) === true;
  note(
    "token",
    "token: it is for this vault",
    isForUs ? undefined : `the token is refused: its audience is ${encodeJson(aud).slice(0, 200)}, this is ${accepted.join(", ")}`,
  );
}

function attempt<T>(check: AuditCheck, what: string, note: ExaminationNote, work: () => T): T | undefined {
  let result: T;
  try {
    result = work();
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    note(check, what, error.message);
    return undefined;
  }
  note(check, what, undefined);
  return result;
}

function describeFindings(findings: readonly ClaimFinding[]): string {
  const failed = findings.filter((finding) => !finding.matched);
  if (failed.length === 0) return "no condition of the release policy is for its authority";
  return failed
    .map(({ claim, found, expected }) =>
      found === undefined ? `claim ${claim} is missing, the policy expects ${expected}` : `claim ${claim} is ${found}, the policy expects ${expected}`,
    )
    .join("; ");
}
