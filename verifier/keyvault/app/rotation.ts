import { asObject, isSealpodError, parseJson, type JsonObject } from "@sealpod/core";
import { keyBundle, type JsonBody } from "../key-bundle.ts";
import { DEFAULT_ROTATION_POLICY, encodeRotationPolicy, parseRotationPolicy, rotationDue } from "../rotation-policy.ts";
import type { StoredRotationPolicy } from "../store/types.ts";
import type { Exchange } from "./exchange.ts";
import { keyNotFound, requireKey } from "./find-key.ts";
import { keyScope, type Operation } from "./operation.ts";
import { addSuccessor, requireEnabled, rescheduleRotation } from "./rotation-schedule.ts";

/** Rotation of keys and their policies for it. */
export const ROTATION_OPERATIONS: readonly Operation[] = [
  { name: "keys/rotate", method: "POST", paths: ["/keys/:name/rotate"], need: "keys/rotate", scope: keyScope, run: rotate },
  { name: "keys/get-rotation-policy", method: "GET", paths: ["/keys/:name/rotationpolicy"], need: "keys/get-rotation-policy", scope: keyScope, run: getPolicy },
  { name: "keys/set-rotation-policy", method: "PUT", paths: ["/keys/:name/rotationpolicy"], need: "keys/set-rotation-policy", scope: keyScope, run: setPolicy },
];

async function rotate(exchange: Exchange): Promise<Response> {
  const latest = await requireKey(exchange);
  requireEnabled(latest);
  const key = await exchange.change((audit) => addSuccessor(exchange.services, latest, audit, { signal: exchange.signal }));
  // For the type alone: nobody has said that it is not wanted.
  if (key === undefined) throw keyNotFound(exchange);
  await rescheduleRotation(exchange.services, key, exchange.line());
  return exchange.json(keyBundle(exchange.base, key));
}

async function getPolicy(exchange: Exchange): Promise<Response> {
  const key = await requireKey(exchange);
  return exchange.json(policyJson(exchange, key.name, await exchange.store.rotationPolicy(key.vault, key.name)));
}

async function setPolicy(exchange: Exchange): Promise<Response> {
  const policy = parseRotationPolicy(await exchange.body());
  const key = await requireKey(exchange);
  const stored = await exchange.change((audit) =>
    exchange.store
      .setRotationPolicy(key.vault, key.name, { text: encodeRotationPolicy(policy), due: rotationDue(policy, key) }, audit)
      .catch((error: unknown) => {
        // Deleted since it was looked up.
        throw isSealpodError(error) && error.code === "ERR_KEYVAULT_NOT_FOUND" ? keyNotFound(exchange) : error;
      }),
  );
  // A version that came since the key was looked up may be due sooner.
  await rescheduleRotation(exchange.services, key, exchange.line());
  return exchange.json(policyJson(exchange, key.name, stored));
}

function policyJson(exchange: Exchange, name: string, stored: StoredRotationPolicy | undefined): JsonBody {
  const policy = parseJson(stored?.text ?? encodeRotationPolicy(DEFAULT_ROTATION_POLICY)) as JsonObject;
  const attributes = { ...(asObject(policy["attributes"] ?? null) as JsonBody), created: stored?.created, updated: stored?.updated };
  return { id: `${exchange.base}/keys/${name}/rotationpolicy`, lifetimeActions: policy["lifetimeActions"] as JsonBody[string], attributes };
}
