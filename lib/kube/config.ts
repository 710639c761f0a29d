import { encodeUtf8, fromBase64, messageOf } from "@sealpod/core";
import { claimSpec, noClaim } from "./claims.ts";
import { type Cursor, type Fields, type Read } from "./fields.ts";
import type { KubeObject } from "./manifest.ts";
import { NO_META, objectMeta } from "./metadata.ts";
import type { ConfigMap, PersistentVolumeClaim, Secret } from "./model.ts";
import { isConfigKey } from "./names.ts";
import { anything, boolean, mapOf, text } from "./values.ts";

/** Base64 text, with line breaks as `kubectl` lets them pass. The message never shows the text: it may be secret. */
const base64: Read<Uint8Array> = (at) => {
  const encoded = at.node.kind === "scalar" ? text(at) : at.refuse("wrong-type", `expected base64 text, found a ${at.node.kind}`);
  if (encoded === undefined) return undefined;
  try {
    return fromBase64(encoded.replaceAll(/[\r\n]/g, ""));
  } catch (error) {
    return at.refuse("bad-value", messageOf(error));
  }
};

/** A key becomes the name of a file. */
function checkKey(key: string): string | undefined {
  return isConfigKey(key) ? undefined : "a key has at most 253 letters, digits, -, _ and .";
}

const textData = mapOf(text, checkKey);
const base64Data = mapOf(base64, checkKey);

export function readConfigMap(object: KubeObject, fields: Fields): ConfigMap {
  const metadata = fields.optional("metadata", objectMeta) ?? NO_META;
  const data = fields.optional("data", textData) ?? new Map<string, string>();
  const binaryData = fields.optional("binaryData", base64Data) ?? new Map<string, Uint8Array>();
  for (const key of binaryData.keys()) {
    if (data.has(key)) fields.find("binaryData")?.refuse("bad-value", `key ${JSON.stringify(key)} is in data as well`);
  }
  return { kind: "config-map", object, metadata, data, binaryData, immutable: fields.optional("immutable", boolean) ?? false };
}

export function readSecret(object: KubeObject, fields: Fields): Secret {
  const metadata = fields.optional("metadata", objectMeta) ?? NO_META;
  const data = new Map(fields.optional("data", base64Data));
  // The API server writes stringData over data (core/v1 Secret).
  for (const [key, value] of fields.optional("stringData", textData) ?? []) data.set(key, encodeUtf8(value));
  return {
    kind: "secret",
    object,
    metadata,
    data,
    type: fields.optional("type", text),
    immutable: fields.optional("immutable", boolean) ?? false,
  };
}

/** Like all kinds that pass through, a claim is not searched for unknown fields outside of its `spec`. */
export function readClaim(object: KubeObject, fields: Fields, at: Cursor): PersistentVolumeClaim {
  fields.check({ status: anything });
  return {
    kind: "persistent-volume-claim",
    object,
    metadata: fields.optional("metadata", objectMeta) ?? NO_META,
    claim: fields.optional("spec", claimSpec) ?? noClaim(at),
  };
}
