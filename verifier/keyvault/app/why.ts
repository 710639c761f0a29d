import { encodeJson, type JsonValue } from "@sealpod/core";
import { keyAttributes, keyId, keyType } from "../key-bundle.ts";
import { explainToken } from "../explain-token.ts";
import { requiredText } from "../request-fields.ts";
import type { Exchange } from "./exchange.ts";
import { requireKey } from "./find-key.ts";
import { keyScope, type Operation } from "./operation.ts";
import { targetOf } from "./release.ts";

/** Why a key would be released to a token, or not: for administrators alone, because with the answers anybody could search for a token that passes. No key leaves. */
export const WHY_OPERATIONS: readonly Operation[] = [
  {
    name: "keys/why",
    method: "POST",
    paths: ["/sealpod/keys/:name/why", "/sealpod/keys/:name/:version/why"],
    need: "administrator",
    scope: keyScope,
    own: true,
    run: why,
  },
];

async function why(exchange: Exchange): Promise<Response> {
  const target = targetOf(requiredText(await exchange.body(), "target"));
  const key = await requireKey(exchange);
  const verdict = await explainToken(exchange.services.releases, key, target, exchange.base);
  exchange.note({ reason: verdict.wouldRelease ? "it would be released" : verdict.reason });
  const about = { kid: keyId(exchange.base, key.name, key.version), kty: keyType(key), attributes: keyAttributes(key) };
  return exchange.context.body(encodeJson(withoutUndefined({ key: about, ...verdict })), 200, { "content-type": "application/json" });
}

/** Claims are JSON without loss: integers beyond 2^53 among them, which JSON.stringify refuses. */
function withoutUndefined(value: unknown): JsonValue {
  if (Array.isArray(value)) return value.map(withoutUndefined);
  if (typeof value !== "object" || value === null) return value as JsonValue;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, member]) => member !== undefined)
      .map(([name, member]) => [name, withoutUndefined(member)]),
  );
}
