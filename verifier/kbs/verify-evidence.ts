import { equalBytes, isSealpodError, toHex, type Clock } from "@sealpod/core";
import type { Certificate } from "@sealpod/pki";
import {
  AMD_OID,
  CertificateCache,
  endorsementRequestOf,
  HOST_VMPL,
  parseEndorsementKey,
  selectCertificateChain,
  signingKeyOf,
  validateReport,
  verifyReport,
  verifySignedChain,
  type Authorities,
  type CertificateChain,
  type EndorsementKey,
  type EndorsementSource,
  type ProductName,
  type ReportPolicy,
  type ReportRevocation,
  type TrustRoot,
  type VerifiedReport,
} from "@sealpod/snp";
import { KbsError } from "./errors.ts";
import { evidenceError, type SnpEvidence } from "./snp-evidence.ts";

/** What evidence is judged by. */
export interface EvidenceRules {
  /** The roots whose evidence is taken, at least one. Emulated evidence counts only for who names the emulator's root here. */
  readonly roots: readonly TrustRoot[];
  /** Where certificates are had that the evidence does not bring: guests of CoCo bring the VCEK, and often nothing. Without it evidence has to bring all three. */
  readonly endorsements?: EndorsementSource;
  /** VMPLs from which a report may be asked; 0 alone when absent, as CoCo's verifier has it. */
  readonly vmpls?: readonly number[];
  /** Revocation lists by product, asked for at each request; without it no certificate counts as revoked. */
  readonly revocation?: { crls(product: ProductName): ReportRevocation["crls"]; readonly missing: "accept" | "refuse" };
  /** What a genuine report must be like to get a token at all, e.g. a minimum TCB; without it the attestation policy judges. */
  readonly reportPolicy?: ReportPolicy;
}

/** Chains that are in use at one time; each takes some 60 KiB. */
const KEPT_CHAINS = 512;
/** Pairs of ASK and ARK that are kept for one kind of key and product: there is one for each root that is trusted. */
const KEPT_AUTHORITIES = 8;
/** Milliseconds for which a service is not asked again for the authorities of a kind of key and product: who invents certificates that none of them signed must not have us flood it. */
const ASK_AGAIN = 60_000;
/** Requests to the certificate service at one time: whoever sends reports of invented chips must not have us flood it. */
const MAX_FETCHES = 8;
/** Milliseconds, of a client that waits for its answer. */
const FETCH_TIMEOUT = 20_000;

/** Verifies evidence. What it keeps between requests are certificates that evidence verified with; dates and revocation are checked each time. */
export class EvidenceVerifier {
  readonly #rules: EvidenceRules;
  readonly #clock: Clock;
  readonly #cache = new CertificateCache({ capacity: KEPT_CHAINS });
  /** By kind of key and product, the last that verified first: roots of ours may be of one product and bear the same names, as an emulator's does beside AMD's. */
  readonly #authorities = new Map<string, readonly Authorities[]>();
  readonly #fetched = new Map<string, { readonly authorities: Authorities; readonly at: number }>();
  readonly #chains = new Map<string, CertificateChain>();
  #fetches = 0;

  constructor(rules: EvidenceRules, clock: Clock) {
    if (rules.roots.length === 0) throw new KbsError("ERR_KBS_ARGUMENT", "no trust root is given: all evidence would be refused");
    this.#rules = rules;
    this.#clock = clock;
  }

  /**
   * Verifies a report down to a root of ours (specs/attestation.md 1.11). Whether it is over the right REPORT_DATA and HOST_DATA is the caller's to check.
   * @throws {KbsError} ERR_KBS_EVIDENCE with the failed check in `details.check`, ERR_KBS_CERTIFICATES
   */
  async verify(evidence: SnpEvidence): Promise<VerifiedReport> {
    const { report } = evidence;
    const { vmpls = [0], revocation, reportPolicy, roots } = this.#rules;
    // A host can have a report made with REPORT_DATA of its own choice; software at another VMPL is not the kernel that was measured.
    if (report.vmpl === HOST_VMPL || !vmpls.includes(report.vmpl)) {
      const who = report.vmpl === HOST_VMPL ? "the host (VMPL 0xFFFFFFFF)" : `VMPL ${report.vmpl}`;
      throw new KbsError("ERR_KBS_EVIDENCE", `the report was asked for by ${who}, expected VMPL ${vmpls.join(", ")}`, { details: { check: "vmpl" } });
    }
    const certificates = await this.#certificatesOf(evidence);
    let verified: VerifiedReport;
    try {
      const input = { report: evidence.bytes, certificates, roots, clock: this.#clock, cache: this.#cache };
      if (revocation === undefined) verified = verifyReport(input);
      else {
        const { product } = parseEndorsementKey(certificates.endorsementKey);
        verified = verifyReport({ ...input, revocation: { crls: revocation.crls(product), missing: revocation.missing } });
      }
    } catch (cause) {
      if (!isSealpodError(cause)) throw cause;
      throw evidenceError("the evidence does not verify", cause);
    }
    this.#learn(evidence, verified, certificates);
    if (reportPolicy !== undefined) {
      try {
        validateReport(verified, reportPolicy);
      } catch (cause) {
        if (!isSealpodError(cause)) throw cause;
        throw evidenceError("the evidence is genuine and not accepted here", cause);
      }
    }
    return verified;
  }

  async #certificatesOf({ bytes, report, certificates }: SnpEvidence): Promise<CertificateChain> {
    const kind = signingKeyOf(bytes);
    const own = certificates.find(({ extensions }) => extensions.has(AMD_OID.productName));
    try {
      if (own === undefined) {
        const kept = this.#chains.get(chainKey(report.chipId, report.reportedTcb));
        if (kept !== undefined) return kept;
        return await this.#fetch("certificates", (source, signal) => source.fetchChain(endorsementRequestOf(report), signal));
      }
      if (certificates.length > 2) return selectCertificateChain(certificates, kind);
      const authorities = await this.#authoritiesOf(own);
      return selectCertificateChain([own, authorities.intermediate, authorities.root], kind);
    } catch (cause) {
      if (cause instanceof KbsError || !isSealpodError(cause)) throw cause;
      throw evidenceError("the evidence's certificates", cause);
    }
  }

  /** ASK and ARK of an endorsement key that came alone: those kept that signed it, else what the service has. */
  async #authoritiesOf(own: Certificate): Promise<Authorities> {
    const key = parseEndorsementKey(own);
    const name = `${key.kind} ${key.product}`;
    const kept = this.#authorities.get(name)?.find((authorities) => haveSigned(authorities, own, key));
    if (kept !== undefined) return kept;
    const last = this.#fetched.get(name);
    const age = last === undefined ? Number.NaN : this.#clock.now() - last.at;
    if (last !== undefined && age >= 0 && age < ASK_AGAIN) return last.authorities;
    const authorities = await this.#fetch("ASK and ARK", async (source, signal) => {
      if (source.authorities === undefined) throw new KbsError("ERR_KBS_CERTIFICATES", `${source.name} has no certificates of the authorities alone`);
      return source.authorities.fetchAuthorities(key.kind, key.product, signal);
    });
    this.#fetched.set(name, { authorities, at: this.#clock.now() });
    return authorities;
  }

  async #fetch<T>(what: string, fetch: (source: EndorsementSource, signal: AbortSignal) => Promise<T>): Promise<T> {
    const source = this.#rules.endorsements;
    if (source === undefined)
      throw new KbsError("ERR_KBS_EVIDENCE", `the evidence does not bring its processor's ${what}, and no certificate service is configured`, {
        details: { check: "certificates" },
        hint: "Send VCEK, ASK and ARK in cert_chain, or configure a certificate service.",
      });
    if (this.#fetches >= MAX_FETCHES) throw new KbsError("ERR_KBS_CERTIFICATES", `${MAX_FETCHES} requests to ${source.name} are under way already: ask again`);
    this.#fetches++;
    try {
      return await fetch(source, AbortSignal.timeout(FETCH_TIMEOUT));
    } catch (cause) {
      if (cause instanceof KbsError) throw cause;
      // What the report asks for and nobody has is the report's fault; the rest is the service's.
      if (isSealpodError(cause) && (cause.code === "ERR_SNP_KDS_REQUEST" || cause.code === "ERR_SNP_KDS_NOT_FOUND"))
        throw evidenceError(`there are no ${what} for the evidence`, cause);
      throw new KbsError("ERR_KBS_CERTIFICATES", `no ${what} for the evidence: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
    } finally {
      this.#fetches--;
    }
  }

  /** Only what evidence has verified with: a wrong answer that was kept would stay wrong. */
  #learn({ report, certificates }: SnpEvidence, { endorsementKey, product }: VerifiedReport, chain: CertificateChain): void {
    const name = `${endorsementKey.kind} ${product}`;
    const others = (this.#authorities.get(name) ?? []).filter(
      ({ intermediate, root }) => !isSame(intermediate, chain.intermediate) || !isSame(root, chain.root),
    );
    this.#authorities.set(name, [{ intermediate: chain.intermediate, root: chain.root }, ...others].slice(0, KEPT_AUTHORITIES));
    if (certificates.length > 0) return;
    this.#chains.set(chainKey(report.chipId, report.reportedTcb), chain);
    const [oldest] = this.#chains.keys();
    if (this.#chains.size > KEPT_CHAINS && oldest !== undefined) this.#chains.delete(oldest);
  }
}

function haveSigned({ intermediate, root }: Authorities, endorsementKey: Certificate, key: EndorsementKey): boolean {
  try {
    verifySignedChain({ endorsementKey, intermediate, root }, key);
    return true;
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return false;
  }
}

function isSame(left: Certificate, right: Certificate): boolean {
  return equalBytes(left.der, right.der);
}

function chainKey(chipId: Uint8Array, tcb: Uint8Array): string {
  return `${toHex(chipId)} ${toHex(tcb)}`;
}
