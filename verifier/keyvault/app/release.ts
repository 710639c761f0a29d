import { badParameter } from "../errors.ts";
import { keyId } from "../key-bundle.ts";
import { parseWrapAlgorithm, type WrapAlgorithm } from "../key-wrap.ts";
import { releaseKey } from "../release.ts";
import { requiredText } from "../request-fields.ts";
import type { Exchange } from "./exchange.ts";
import { requireKey } from "./find-key.ts";
import { keyScope, type Operation } from "./operation.ts";

/** Limit of the genuine service for the nonce of a release, as far as is known; ours keeps it out of the way. */
const MAX_NONCE = 1024;

/** Release of keys. Whatever fails, the caller gets one answer; who asks why is told by `why.ts`. */
export const RELEASE_OPERATIONS: readonly Operation[] = [
  {
    name: "keys/release",
    method: "POST",
    paths: ["/keys/:name/release", "/keys/:name/:version/release"],
    need: "keys/release",
    scope: keyScope,
    run: release,
  },
];

async function release(exchange: Exchange): Promise<Response> {
  const { vault, caller, base, apiVersion, requestId, services } = exchange;
  const body = await exchange.body();
  const target = targetOf(requiredText(body, "target"));
  const { nonce, enc } = body;
  if (nonce !== undefined && nonce !== null && (typeof nonce !== "string" || nonce.length > MAX_NONCE))
    throw badParameter(`Property nonce must be a string of at most ${MAX_NONCE} characters.`);
  const algorithm: WrapAlgorithm | undefined =
    enc === undefined || enc === null ? "CKM_RSA_AES_KEY_WRAP" : typeof enc === "string" ? parseWrapAlgorithm(enc) : undefined;
  if (algorithm === undefined)
    throw badParameter("Property enc is not supported, expected CKM_RSA_AES_KEY_WRAP, RSA_AES_KEY_WRAP_256 or RSA_AES_KEY_WRAP_384.");
  const key = await requireKey(exchange);
  exchange.delegateAudit();
  const value = await releaseKey(services.releases, {
    requestId,
    caller,
    kind: vault.kind,
    base,
    requestedId: keyId(base, exchange.keyName(), exchange.version()),
    apiVersion,
    key,
    target,
    algorithm,
    nonce: nonce ?? undefined,
    admitAgain: exchange.admitAgain,
  });
  services.logger.log("info", "key released", { request: requestId, vault: vault.name, key: key.name, version: key.version, appid: caller.appid });
  return exchange.json({ value });
}

/** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER */
export function targetOf(target: string): string {
  if (target === "") throw badParameter("Property target is empty: it is the attestation token.");
  return target;
}
