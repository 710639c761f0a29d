import { createPrivateKey } from "node:crypto";
import { asObject, encodeUtf8, type Clock, type JsonObject, type JsonValue } from "@sealpod/core";
import { authoritiesFor, evaluateReleasePolicy, parseReleasePolicy, type ClaimFinding } from "@sealpod/release-policy";
import { KbsError } from "./errors.ts";
import type { ResourcePath } from "./resource-path.ts";
import type { KbsStore } from "./state.ts";

/** Which keys of the vault guests can have as resources. */
export interface ReleasedKeys {
  /** The vault whose keys these are. */
  readonly vault: string;
  /** What a release policy has to name as its authority for a key to leave by this door, such as `https://kbs.sealpod.internal`: an owner who has not named it has not opened the door. */
  readonly authority: string;
}

/** A key that its release policy lets a guest have. */
export interface ReleasedKey {
  /** An oct key's own bytes; the JSON of the private JWK of others. */
  readonly bytes: Uint8Array;
  readonly version: string;
  readonly findings: readonly ClaimFinding[];
}

/** What a release policy did not allow. */
export class ReleaseRefused extends KbsError {
  readonly findings: readonly ClaimFinding[];

  constructor(message: string, findings: readonly ClaimFinding[]) {
    super("ERR_KBS_POLICY_DENY", message);
    this.findings = findings;
  }
}

/** Names of keys in Key Vault. */
const KEY_NAME = /^[A-Za-z0-9-]{1,127}$/;

/**
 * The key `<name>` of the vault as the resource `default/key/<name>`: its latest version, if it may be exported, is in its time, and its release policy is satisfied by the evidence of the guest's token
 * under the names that Azure's attestation service has for the same facts.
 * @param evidence annotated evidence of a verified token
 * @returns undefined if there is no such key, or none that may be exported
 * @throws {ReleaseRefused} with what the policy found
 */
export async function releaseKeyTo(
  store: KbsStore,
  keys: ReleasedKeys,
  path: ResourcePath,
  evidence: JsonObject,
  clock: Clock,
): Promise<ReleasedKey | undefined> {
  const { repository, type, tag } = path;
  if (repository !== "default" || type !== "key" || !KEY_NAME.test(tag)) return undefined;
  const key = await store.key(keys.vault, tag);
  const now = Math.floor(clock.now() / 1000);
  if (key?.releasePolicy === undefined || !key.enabled || !key.exportable || (key.notBefore ?? now) > now || (key.expires ?? now + 1) <= now) return undefined;
  const policy = parseReleasePolicy(encodeUtf8(key.releasePolicy.text));
  const authorities = authoritiesFor(policy, keys.authority);
  const { satisfied, findings } = evaluateReleasePolicy(authorities, azureClaims(evidence));
  if (authorities.length === 0 || !satisfied) {
    const what = authorities.length === 0 ? `does not name ${keys.authority} as an authority` : "is not satisfied by the guest's evidence";
    throw new ReleaseRefused(`the release policy of key ${key.name} ${what}`, findings);
  }
  const secret = await store.openKey(key);
  if (key.type === "oct") return { bytes: secret, version: key.version, findings };
  try {
    const jwk = createPrivateKey({ key: Buffer.from(secret), format: "der", type: "pkcs8" }).export({ format: "jwk" });
    return { bytes: encodeUtf8(JSON.stringify(jwk)), version: key.version, findings };
  } finally {
    secret.fill(0);
  }
}

/** Facts of a token's evidence by the names of Azure's attestation service (specs/attestation.md 4.3). Those that only it establishes, such as the compliance status, are not there. */
function azureClaims(evidence: JsonObject): JsonObject {
  const snp = asObject(evidence["snp"]) ?? {};
  const named: readonly (readonly [string, JsonValue | undefined])[] = [
    ["bootloader-svn", snp["reported_tcb_bootloader"]],
    ["guestsvn", snp["guest_svn"]],
    ["hostdata", evidence["init_data"]],
    ["is-debuggable", snp["policy_debug_allowed"]],
    ["launchmeasurement", snp["measurement"]],
    ["microcode-svn", snp["reported_tcb_microcode"]],
    ["migration-allowed", snp["policy_migrate_ma"]],
    ["reportdata", evidence["report_data"]],
    ["smt-allowed", snp["policy_smt_allowed"]],
    ["snpfw-svn", snp["reported_tcb_snp"]],
    ["tee-svn", snp["reported_tcb_tee"]],
    ["vmpl", snp["vmpl"]],
  ];
  const claims = Object.fromEntries(named.flatMap(([name, value]) => (value === undefined ? [] : [[`x-ms-sevsnpvm-${name}`, value] as const])));
  return { "x-ms-attestation-type": "sevsnpvm", ...claims, "x-sealpod-root": asObject(evidence["sealpod"])?.["root"] ?? null };
}
