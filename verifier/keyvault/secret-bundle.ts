import { commonAttributes, type JsonBody } from "./key-bundle.ts";
import type { SecretRecord } from "./store/types.ts";

/** Id of a secret, or of one version of it. */
export function secretId(base: string, name: string, version?: string): string {
  return version === undefined ? `${base}/secrets/${name}` : `${base}/secrets/${name}/${version}`;
}

/** A SecretBundle; without the value for everything but set and get. */
export function secretBundle(base: string, secret: SecretRecord, value?: string): JsonBody {
  return {
    value,
    contentType: secret.contentType,
    id: secretId(base, secret.name, secret.version),
    attributes: commonAttributes(secret),
    tags: { ...secret.tags },
  };
}

/** A SecretItem of a list. @param version undefined for the list of secrets */
export function secretItem(base: string, secret: SecretRecord, version?: string): JsonBody {
  return { contentType: secret.contentType, id: secretId(base, secret.name, version), attributes: commonAttributes(secret), tags: { ...secret.tags } };
}
