import { createHash } from "node:crypto";
import { verifyUvmEndorsement, type UvmTrust, type VerifiedUvmEndorsement } from "@sealpod/cose";
import { equalBytes, isSealpodError, messageOf, toHex } from "@sealpod/core";

/** What became of the endorsements: why a token has no compliance status is the first question about a refused release. */
export type EndorsementOutcome =
  | { readonly kind: "endorsed"; readonly claim: string; readonly svn: number }
  | { readonly kind: "none" }
  | { readonly kind: "refused"; readonly problem: string };

/** Images of utility VMs that are in use at one time: a handful per signer. */
const CACHE_SIZE = 64;

/**
 * Verifies endorsements of utility VMs. Each VM sends the same one with every request, so those that verified are remembered by their content, never by anything
 * that a request says about them. What they verified under is fixed for the life of this object: who changes the trust makes another.
 */
export class EndorsementVerifier {
  readonly #trust: readonly UvmTrust[];
  /** By SHA-256 of the COSE_Sign1; the one that was used longest ago comes first. */
  readonly #verified = new Map<string, VerifiedUvmEndorsement>();

  constructor(trust: readonly UvmTrust[]) {
    // A copy: whoever changes the list later must not find old verdicts standing under the new one.
    this.#trust = trust.map((entry) => ({ ...entry }));
  }

  /** A failing endorsement costs the compliance status, not the token: the report is genuine all the same, and policies ask for the status. */
  verify(endorsements: readonly Uint8Array[], measurement: Uint8Array): EndorsementOutcome {
    const problems: string[] = [];
    for (const bytes of endorsements) {
      try {
        const { launchMeasurement, claim, svn } = this.#verify(bytes);
        if (equalBytes(launchMeasurement, measurement)) return { kind: "endorsed", claim, svn };
        problems.push(`it endorses the measurement ${toHex(launchMeasurement)}, the report has ${toHex(measurement)}`);
      } catch (error) {
        if (!isSealpodError(error)) throw error;
        problems.push(`${error.code}: ${messageOf(error)}`);
      }
    }
    return problems.length === 0 ? { kind: "none" } : { kind: "refused", problem: problems.join("; ") };
  }

  #verify(bytes: Uint8Array): VerifiedUvmEndorsement {
    const digest = createHash("sha256").update(bytes).digest("base64");
    const known = this.#verified.get(digest);
    if (known !== undefined) {
      this.#verified.delete(digest);
      this.#verified.set(digest, known);
      return known;
    }
    // Only what verified is kept: refused ones are an attacker's to make, and would push the good ones out.
    const verified = verifyUvmEndorsement(bytes, this.#trust);
    if (this.#verified.size >= CACHE_SIZE) {
      const [oldest] = this.#verified.keys();
      if (oldest !== undefined) this.#verified.delete(oldest);
    }
    this.#verified.set(digest, verified);
    return verified;
  }
}
