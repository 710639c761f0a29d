import { createHash, createPublicKey, sign, X509Certificate, type KeyObject } from "node:crypto";
import { encodeUtf8, messageOf, toBase64, toBase64url, toHex } from "@sealpod/core";
import { KeyvaultError } from "./errors.ts";
import type { VaultKind } from "./key-request.ts";

/** The TLS identity of the vault; a client checks a release against the name it called. */
export interface ReleaseSigner {
  /** RSA of at least 2048 bits: the format knows RS256 alone. */
  readonly privateKey: KeyObject;
  /** DER certificates, the leaf first. */
  readonly chain: readonly Uint8Array[];
}

/** RFC 7518 section 3.3. */
const MIN_RSA_BITS = 2048;
/**
 * With an RSA key of up to this size a release is signed in this thread, which takes 0.3 ms: to have another thread do it costs this one a third of that, and the machine half as much
 * again. Larger keys take several times as long and would hold up the requests of others.
 */
const INLINE_RSA_BITS = 2048;

/** The protected header of a release, ready to be put before a payload. */
type Headers = Readonly<Record<VaultKind, string>>;

/**
 * Checks that a signer can sign releases that the genuine clients take.
 * @throws {KeyvaultError} ERR_KEYVAULT_ARGUMENT
 */
export function requireSigner(signer: ReleaseSigner): void {
  const { privateKey, chain } = signer;
  const { asymmetricKeyType, asymmetricKeyDetails, type } = privateKey;
  const problem = (text: string, cause?: unknown): KeyvaultError =>
    new KeyvaultError("ERR_KEYVAULT_ARGUMENT", `releases cannot be signed: ${text}`, {
      cause,
      hint: "Clients take a release only under RS256 and the certificate of the host that they called: give the vault's TLS an RSA certificate, or releases one of their own for the same names.",
    });
  if (type !== "private") throw problem(`expected a private key, found a ${type} one`);
  if (asymmetricKeyType !== "rsa") {
    const curve = asymmetricKeyDetails?.namedCurve;
    throw problem(`their format knows RS256 alone, and the key is ${asymmetricKeyType ?? "unknown"}${curve === undefined ? "" : ` (${curve})`}, expected rsa`);
  }
  const bits = asymmetricKeyDetails?.modulusLength ?? 0;
  if (bits < MIN_RSA_BITS) throw problem(`the RSA key has ${bits} bits, expected ${MIN_RSA_BITS} at least`);
  if (chain.length === 0) throw problem("the certificate chain is empty, expected the leaf at least");
  let certificates: readonly X509Certificate[];
  try {
    certificates = chain.map((der) => new X509Certificate(der));
  } catch (cause) {
    throw problem(`a certificate of the chain is none: ${messageOf(cause)}`, cause);
  }
  if (certificates[0]?.publicKey.equals(createPublicKey(privateKey)) !== true)
    throw problem("the first certificate is not for its key: the chain starts with the leaf");
  for (const [index, certificate] of certificates.entries()) {
    const issuer = certificates[index + 1];
    if (issuer !== undefined && !certificate.checkIssued(issuer)) throw problem(`certificate ${index + 2} of the chain did not issue certificate ${index + 1}`);
  }
}

/** A signer that can be replaced while releases go on, as TLS certificates are when they are renewed. Takes the place of any {@link ReleaseSigner}. */
export class ReplaceableSigner implements ReleaseSigner {
  #signer: ReleaseSigner;
  #headers: Headers | undefined;

  /** @throws {KeyvaultError} ERR_KEYVAULT_ARGUMENT */
  constructor(signer: ReleaseSigner) {
    requireSigner(signer);
    this.#signer = signer;
  }

  get privateKey(): KeyObject {
    return this.#signer.privateKey;
  }

  get chain(): readonly Uint8Array[] {
    return this.#signer.chain;
  }

  /** The header for the key and chain of this moment. */
  get headers(): Headers {
    this.#headers ??= headersOf(this.#signer.chain);
    return this.#headers;
  }

  /**
   * Signs with another key and chain from now on. If they are no use, those that are there go on.
   * @throws {KeyvaultError} ERR_KEYVAULT_ARGUMENT
   */
  replace(signer: ReleaseSigner): void {
    requireSigner(signer);
    this.#signer = signer;
    this.#headers = undefined;
  }
}

/**
 * Signs the payload of a release: a JWS in compact form, with the certificate chain in its header (specs/attestation.md 5.5.4).
 * The signature is most of what a release costs: with a large key it is made on another thread.
 */
export async function signRelease(signer: ReleaseSigner, kind: VaultKind, payload: string): Promise<string> {
  // Header and key are of one moment, whatever is replaced while the signature is made.
  const { privateKey } = signer;
  const headers = signer instanceof ReplaceableSigner ? signer.headers : headersOf(signer.chain);
  const input = `${headers[kind]}.${toBase64url(encodeUtf8(payload))}`;
  const bytes = Buffer.from(input, "latin1");
  const isQuick = (privateKey.asymmetricKeyDetails?.modulusLength ?? 0) <= INLINE_RSA_BITS;
  const signature = isQuick ? sign("sha256", bytes, privateKey) : await signElsewhere(bytes, privateKey);
  return `${input}.${toBase64url(signature)}`;
}

async function signElsewhere(bytes: Uint8Array, privateKey: KeyObject): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    sign("sha256", bytes, privateKey, (error, signature) => (error === null ? resolve(signature) : reject(error)));
  });
}

function headersOf(chain: readonly Uint8Array[]): Headers {
  const leaf = chain[0] ?? new Uint8Array();
  const sha1 = new Uint8Array(createHash("sha1").update(leaf).digest());
  const sha256 = toBase64url(new Uint8Array(createHash("sha256").update(leaf).digest()));
  const x5c = chain.map(toBase64);
  const encode = (header: object): string => toBase64url(encodeUtf8(JSON.stringify(header)));
  return {
    vault: encode({ alg: "RS256", kid: toHex(sha1).toUpperCase(), typ: "JWT", x5t: toBase64url(sha1), x5c, "x5t#S256": sha256 }),
    managedhsm: encode({ alg: "RS256", kid: sha256, x5c, "x5t#S256": sha256 }),
  };
}
