import { createPrivateKey, sign, type KeyObject } from "node:crypto";
import { encodeUtf8, toBase64url, type Clock } from "@sealpod/core";
import { CliError } from "../errors.ts";

/** Seconds for which a token counts, as CoCo's tool makes them; a new one is made for each command. */
const LIFETIME = 2 * 60 * 60;

/**
 * The bearer token of CoCo's `kbs-client --auth-private-key`: a JWT that the administrator signs himself, with EdDSA.
 * @param pem Ed25519 private key, PKCS#8
 * @param name of its file, for messages
 * @throws {CliError} ERR_CLI_FILE; the key is in no message
 */
export function adminToken(pem: string, name: string, clock: Clock): string {
  const key = parseKey(pem, name);
  const now = Math.floor(clock.now() / 1000);
  const part = (value: object): string => toBase64url(encodeUtf8(JSON.stringify(value)));
  const input = `${part({ alg: "EdDSA", typ: "JWT" })}.${part({ iat: now, exp: now + LIFETIME, nbf: now })}`;
  return `${input}.${toBase64url(new Uint8Array(sign(null, encodeUtf8(input), key)))}`;
}

function parseKey(pem: string, name: string): KeyObject {
  const hint = "Make one with: openssl genpkey -algorithm ed25519 > admin.key; the key broker is given its public half: openssl pkey -in admin.key -pubout";
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    // What the library says could repeat what is in the file.
    throw new CliError("ERR_CLI_FILE", `${name} holds no private key in PEM without a password`, { hint });
  }
  if (key.asymmetricKeyType === "ed25519") return key;
  throw new CliError("ERR_CLI_FILE", `the key in ${name} is of type ${String(key.asymmetricKeyType)}, expected ed25519`, { hint });
}
