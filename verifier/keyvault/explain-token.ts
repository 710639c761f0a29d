import { smallestChange, type ClaimFinding, type SmallestChange } from "@sealpod/release-policy";
import { examine, noProgress, type ExaminationContext, type Progress } from "./release-examination.ts";
import type { AuditCheck, KeyRecord } from "./store/types.ts";

/** One check of an attestation token or key. */
export interface ExplainedCheck {
  readonly check: AuditCheck;
  /** What must be, e.g. `the key is enabled`. */
  readonly what: string;
  /** What is instead; undefined if it is as it must be. */
  readonly problem: string | undefined;
}

/** What {@link explainToken} gives. */
export interface TokenExplanation {
  readonly wouldRelease: boolean;
  /** The first check that refuses: what the audit of a release would have. */
  readonly failed: AuditCheck | undefined;
  /** What it says; "" if there is none. */
  readonly reason: string;
  /** Issuer of the token, as the token claims it; "" if it does not. */
  readonly authority: string;
  /** All checks that could be made, also after one that failed. */
  readonly checks: readonly ExplainedCheck[];
  /** Conditions of the release policy for this authority. */
  readonly findings: readonly ClaimFinding[];
  /** The least with which the policy would hold; undefined if it holds, or there is no token or policy to say it of. */
  readonly change: SmallestChange | undefined;
}

/**
 * Says whether a key would be released to who presents a token, and everything that is in the way: for the owner of the key, never for a caller, whom each line would bring nearer.
 * Nothing is released, and the key's secret is not touched. Claims of a token whose signature is not good are shown as they stand: `failed` says so.
 * @param base URL of the vault, for tokens that name their audience
 */
export async function explainToken(context: ExaminationContext, key: KeyRecord, token: string, base?: string): Promise<TokenExplanation> {
  const checks: ExplainedCheck[] = [];
  const progress = noProgress();
  const note = (check: AuditCheck, what: string, problem: string | undefined): void => void checks.push({ check, what, problem });
  await examine(context, { key, target: token, base }, progress, note);
  const first = checks.find(({ problem }) => problem !== undefined);
  return {
    wouldRelease: first === undefined,
    failed: first?.check,
    reason: first?.problem ?? "",
    authority: progress.authority,
    checks,
    findings: progress.findings,
    change: changeOf(progress),
  };
}

function changeOf({ token, policy, authority, findings }: Progress): SmallestChange | undefined {
  if (token === undefined || policy === undefined) return undefined;
  const change = smallestChange(policy, token.claims, authority);
  // Nothing to change, and conditions that say so.
  return findings.length > 0 && change.toClaims?.edits.length === 0 ? undefined : change;
}
