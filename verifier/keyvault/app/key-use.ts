import { toBase64url, type Clock, type JsonObject } from "@sealpod/core";
import { decryptWith, encryptWith, findAlgorithm, needsSecret, signWith, verifyWith, type Algorithm, type KeyUse, type OperationKey } from "../crypto/index.ts";
import { badParameter, KeyvaultError } from "../errors.ts";
import { keyId } from "../key-bundle.ts";
import { optionalBytes, optionalInteger, requiredBytes, requiredText } from "../request-fields.ts";
import type { KeyRecord } from "../store/types.ts";
import type { Exchange } from "./exchange.ts";
import { requireKey } from "./find-key.ts";
import { keyScope, type Operation } from "./operation.ts";

/** Limits of the genuine service for one call of /rng. */
const MAX_RANDOM = 128;

const use = (operation: "encrypt" | "decrypt" | "wrapkey" | "unwrapkey" | "sign" | "verify", run: Operation["run"]): Operation => ({
  name: `keys/${operation}`,
  method: "POST",
  // Without a version it is the latest one, as older clients send `//encrypt`.
  paths: [`/keys/:name/${operation}`, `/keys/:name/:version/${operation}`],
  need: `keys/${operation}`,
  scope: keyScope,
  run,
});

/** Operations with keys: what is done with them here, because they do not leave. */
export const KEY_USE_OPERATIONS: readonly Operation[] = [
  use("encrypt", (exchange) => encrypt(exchange, "encrypt")),
  use("decrypt", (exchange) => decrypt(exchange, "decrypt")),
  use("wrapkey", (exchange) => encrypt(exchange, "wrapKey")),
  use("unwrapkey", (exchange) => decrypt(exchange, "unwrapKey")),
  use("sign", sign),
  use("verify", verify),
  { name: "rng", method: "POST", paths: ["/rng"], need: "rng", scope: () => "/", only: "managedhsm", run: randomBytes },
];

async function encrypt(exchange: Exchange, keyUse: "encrypt" | "wrapKey"): Promise<Response> {
  const { key, algorithm, body } = await begin(exchange, keyUse);
  const text = { value: requiredBytes(body, "value"), iv: optionalBytes(body, "iv"), aad: optionalBytes(body, "aad"), tag: optionalBytes(body, "tag") };
  const { random } = exchange.services;
  const result = await withKey(exchange, key, algorithm, keyUse, (material) => encryptWith(algorithm, material, text, random));
  return exchange.json({
    kid: kidOf(exchange, key),
    value: toBase64url(result.value),
    iv: encoded(result.iv),
    tag: encoded(result.tag),
    aad: encoded(result.aad),
  });
}

async function decrypt(exchange: Exchange, keyUse: "decrypt" | "unwrapKey"): Promise<Response> {
  const { key, algorithm, body } = await begin(exchange, keyUse);
  const text = { value: requiredBytes(body, "value"), iv: optionalBytes(body, "iv"), aad: optionalBytes(body, "aad"), tag: optionalBytes(body, "tag") };
  const value = await withKey(exchange, key, algorithm, keyUse, (material) => decryptWith(algorithm, material, text));
  return exchange.json({ kid: kidOf(exchange, key), value: toBase64url(value) });
}

async function sign(exchange: Exchange): Promise<Response> {
  const { key, algorithm, body } = await begin(exchange, "sign");
  const digest = requiredBytes(body, "value");
  const { random } = exchange.services;
  const signature = await withKey(exchange, key, algorithm, "sign", (material) => signWith(algorithm, material, digest, random));
  return exchange.json({ kid: kidOf(exchange, key), value: toBase64url(signature) });
}

async function verify(exchange: Exchange): Promise<Response> {
  const { key, algorithm, body } = await begin(exchange, "verify");
  const digest = requiredBytes(body, "digest");
  const signature = requiredBytes(body, "value");
  return exchange.json({ value: await withKey(exchange, key, algorithm, "verify", (material) => verifyWith(algorithm, material, digest, signature)) });
}

interface Begun {
  readonly key: KeyRecord;
  readonly algorithm: Algorithm;
  readonly body: JsonObject;
}

async function begin(exchange: Exchange, keyUse: KeyUse): Promise<Begun> {
  const body = await exchange.body();
  const alg = requiredText(body, "alg");
  const key = await requireKey(exchange);
  requireUsable(key, keyUse, exchange.services.clock);
  const algorithm = findAlgorithm(alg, keyUse, key);
  exchange.note({ reason: alg });
  return { key, algorithm, body };
}

/**
 * Checks that a key may be used now and for this. Outside of nbf and exp a key still undoes what was done with it: data stays readable, and a new key can be tried.
 * @throws {KeyvaultError} ERR_KEYVAULT_KEY_OPERATION
 */
export function requireUsable(key: KeyRecord, keyUse: KeyUse, clock: Clock): void {
  const operation = keyUse.toLowerCase();
  const refuse = (problem: string, inner: string): never => {
    throw new KeyvaultError("ERR_KEYVAULT_KEY_OPERATION", `Operation ${operation} is not allowed on ${problem}.`, { details: { inner } });
  };
  if (!key.enabled) refuse("a disabled key", "KeyDisabled");
  if (!key.keyOps.includes(keyUse)) refuse("this key: its key_ops do not name it", "KeyOperationForbidden");
  if (keyUse === "decrypt" || keyUse === "unwrapKey" || keyUse === "verify") return;
  const now = clock.now() / 1000;
  if (key.notBefore !== undefined && now < key.notBefore) refuse("a key that is not yet valid", "KeyNotYetValid");
  if (key.expires !== undefined && now >= key.expires) refuse("an expired key", "KeyExpired");
}

/** Opens the key if need be, and overwrites it after use. */
async function withKey<T>(exchange: Exchange, key: KeyRecord, algorithm: Algorithm, keyUse: KeyUse, work: (key: OperationKey) => T): Promise<T> {
  const { type, publicMembers } = key;
  if (!needsSecret(algorithm, keyUse)) return work({ type, publicMembers, secret: new Uint8Array() });
  const secret = await exchange.store.openKey(key);
  try {
    return work({ type, publicMembers, secret });
  } finally {
    secret.fill(0);
  }
}

async function randomBytes(exchange: Exchange): Promise<Response> {
  const count = optionalInteger(await exchange.body(), "count");
  if (count === undefined || count < 1 || count > MAX_RANDOM) throw badParameter(`Property count must be 1 to ${MAX_RANDOM}.`);
  return exchange.json({ value: toBase64url(exchange.services.random.bytes(count)) });
}

function kidOf(exchange: Exchange, key: KeyRecord): string {
  return keyId(exchange.base, key.name, key.version);
}

function encoded(bytes: Uint8Array | undefined): string | undefined {
  return bytes === undefined ? undefined : toBase64url(bytes);
}
