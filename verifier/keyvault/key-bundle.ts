import { encodeUtf8, toBase64url } from "@sealpod/core";
import { RECOVERABLE_DAYS } from "./store/limits.ts";
import type { Deleted, KeyRecord, SecretRecord } from "./store/types.ts";

/** JSON to be sent; members with the value undefined are left out. */
export type JsonBody = { readonly [name: string]: string | number | boolean | null | undefined | JsonBody | readonly (string | JsonBody)[] };

/** Id of a key, or of one version of it. @param base e.g. `https://demo.vault.sealpod.internal:8443` */
export function keyId(base: string, name: string, version?: string): string {
  return version === undefined ? `${base}/keys/${name}` : `${base}/keys/${name}/${version}`;
}

/** The `kty` of a key: `-HSM` says that it never leaves unwrapped. */
export function keyType(key: KeyRecord): string {
  return key.hsm ? `${key.type}-HSM` : key.type;
}

/** Attributes that keys and secrets have in common, as the wire has them. */
export function commonAttributes(item: KeyRecord | SecretRecord): JsonBody {
  return {
    enabled: item.enabled,
    nbf: item.notBefore,
    exp: item.expires,
    created: item.created,
    updated: item.updated,
    recoveryLevel: "Recoverable+Purgeable",
    recoverableDays: RECOVERABLE_DAYS,
  };
}

/** Attributes of a key version as the wire has them. */
export function keyAttributes(key: KeyRecord): JsonBody {
  return { ...commonAttributes(key), exportable: key.exportable };
}

/** The JWK of a key version with its public members: nothing secret. */
export function publicKeyJson(base: string, key: KeyRecord): JsonBody {
  return { kid: keyId(base, key.name, key.version), kty: keyType(key), key_ops: key.keyOps, ...key.publicMembers };
}

/** A KeyBundle (specs/attestation.md 7.1). */
export function keyBundle(base: string, key: KeyRecord): JsonBody {
  const policy = key.releasePolicy;
  return {
    key: publicKeyJson(base, key),
    attributes: keyAttributes(key),
    tags: { ...key.tags },
    release_policy:
      policy === undefined ? undefined : { contentType: policy.contentType, data: toBase64url(encodeUtf8(policy.text)), immutable: policy.immutable },
  };
}

/** A KeyItem of a list. @param version undefined for the list of keys */
export function keyItem(base: string, key: KeyRecord, version?: string): JsonBody {
  return { kid: keyId(base, key.name, version), attributes: keyAttributes(key), tags: { ...key.tags } };
}

/** What a deleted key or secret has beyond its bundle or item. */
export function deletion(base: string, collection: "deletedkeys" | "deletedsecrets", deleted: Deleted<KeyRecord | SecretRecord>): JsonBody {
  return { recoveryId: `${base}/${collection}/${deleted.item.name}`, deletedDate: deleted.deleted, scheduledPurgeDate: deleted.purge };
}
