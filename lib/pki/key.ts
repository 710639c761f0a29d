import { generateKeyPair, type KeyObject } from "node:crypto";

/** Keys that {@link generateKey} makes. */
export type GeneratedKeyKind = "rsa-2048" | "rsa-3072" | "rsa-4096" | "p256" | "p384" | "p521";

/** A new private key from node:crypto's own generator. RSA-4096 takes about a second. */
export async function generateKey(kind: GeneratedKeyKind): Promise<KeyObject> {
  const pair = Promise.withResolvers<KeyObject>();
  const done = (error: Error | null, _publicKey: KeyObject, privateKey: KeyObject): void => (error === null ? pair.resolve(privateKey) : pair.reject(error));
  switch (kind) {
    case "rsa-2048":
    case "rsa-3072":
    case "rsa-4096":
      generateKeyPair("rsa", { modulusLength: Number(kind.slice(4)), publicExponent: 65537 }, done);
      break;
    case "p256":
      generateKeyPair("ec", { namedCurve: "prime256v1" }, done);
      break;
    case "p384":
      generateKeyPair("ec", { namedCurve: "secp384r1" }, done);
      break;
    case "p521":
      generateKeyPair("ec", { namedCurve: "secp521r1" }, done);
      break;
  }
  return pair.promise;
}
