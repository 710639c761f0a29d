import { X509Certificate, createPublicKey } from "node:crypto";
import { isIP } from "node:net";
import {
  asArray,
  asObject,
  decodeUtf8,
  fromAnyBase64,
  fromBase64,
  messageOf,
  parseJson,
  sha256,
  toBase64url,
  type Clock,
  type JsonObject,
} from "@sealpod/core";
import { certificateAnchor, equalNames, OID, parseCertificate, verifyChain, type Certificate } from "@sealpod/pki";
import { compactVerify, decodeProtectedHeader } from "jose";
import { SkrError } from "./errors.ts";

/** A release with a 4096-bit key and a long policy is below 32 KiB. */
const MAX_JWS = 512 * 1024;

/** Claims of a release, signed by the key store that the caller named. */
export interface VerifiedRelease {
  readonly kind: "verified-release";
  readonly payload: JsonObject;
}

/**
 * Verifies the JWS of a release: signature by the first certificate of `x5c`, chain to a trusted authority, and the
 * store's host name in that certificate. Without the last, the owner of any trusted certificate could hand us a key.
 * @param host DNS name or IPv4 address of the key store, no port
 * @param roots certificate authorities that TLS trusts too
 * @throws {SkrError} ERR_SKR_RELEASE_SIGNATURE
 */
export async function verifyRelease(jws: string, host: string, roots: readonly Certificate[], clock: Clock): Promise<VerifiedRelease> {
  try {
    if (jws.length > MAX_JWS) throw new Error(`it has ${jws.length} characters, more than ${MAX_JWS}`);
    const header = decodeProtectedHeader(jws);
    const x5c = asArray(header.x5c as never) ?? [];
    const chain = x5c.map((entry, index) => {
      if (typeof entry !== "string") throw new Error(`x5c[${index}] is not a string`);
      return parseCertificate(fromBase64(entry, `x5c[${index}]`), `x5c[${index}]`);
    });
    const [leaf] = chain;
    if (leaf === undefined) throw new Error("its header has no certificate (x5c)");
    verifyCertificates(chain, leaf, host, roots, clock);
    const thumbprint = header["x5t#S256"];
    // The genuine store pads nothing, but what it writes here has been seen in both alphabets.
    if (thumbprint !== undefined && (typeof thumbprint !== "string" || toBase64url(fromAnyBase64(thumbprint)) !== toBase64url(sha256(leaf.der)))) {
      throw new Error("x5t#S256 is not the hash of the certificate");
    }
    const key = createPublicKey({ key: Buffer.from(leaf.publicKey.der), format: "der", type: "spki" });
    const { payload } = await compactVerify(jws, key, { algorithms: ["RS256"] });
    const claims = asObject(parseJson(decodeUtf8(payload, "its payload"), "its payload", { maxLength: MAX_JWS, maxDepth: 32 }));
    if (claims === undefined) throw new Error("its payload is not a JSON object");
    return { kind: "verified-release", payload: claims };
  } catch (cause) {
    throw new SkrError("ERR_SKR_RELEASE_SIGNATURE", `the key store's answer is not signed by ${host}: ${messageOf(cause)}`, {
      cause,
      hint: "The pod trusts the authorities in SSL_CERT_FILE, or in /etc/ssl/certs/ca-certificates.crt.",
    });
  }
}

function verifyCertificates(chain: readonly Certificate[], leaf: Certificate, host: string, roots: readonly Certificate[], clock: Clock): void {
  const anchors = roots.map(certificateAnchor);
  // Servers may leave the root out of their chain; then it is one of ours.
  const last = chain.at(-1) ?? leaf;
  const isRoot = roots.some((root) => root.der.length === last.der.length && Buffer.compare(root.der, last.der) === 0);
  const candidates = isRoot ? [undefined] : roots.filter((root) => equalNames(root.subject, last.issuer));
  if (candidates.length === 0) throw new Error(`no trusted authority issued ${chain.length > 1 ? "its certificate chain" : "its certificate"}`);
  let failure: unknown;
  const verified = candidates.some((root) => {
    try {
      verifyChain(root === undefined ? chain : [...chain, root], { anchors, validity: { kind: "now", clock }, what: "x5c" });
      return true;
    } catch (error) {
      failure = error;
      return false;
    }
  });
  if (!verified) throw failure;
  if (leaf.extendedKeyUsage?.includes(OID.serverAuth) !== true) throw new Error("its certificate is not for servers (extendedKeyUsage)");
  if (leaf.keyUsage !== undefined && !leaf.keyUsage.has("digitalSignature")) throw new Error("its certificate is not for signing (keyUsage)");
  if (!namesHost(new X509Certificate(leaf.der), host)) throw new Error(`its certificate does not name ${host}`);
}

/** An address is named by an iPAddress alone (RFC 9525 section 6.5): authorities that check names do not check them as addresses. */
function namesHost(certificate: X509Certificate, host: string): boolean {
  // As a URL has it: 10.5, 0xa000005 and 167772165 are addresses too.
  const canonical = URL.canParse(`https://${host}/`) ? new URL(`https://${host}/`).hostname : host;
  if (isIP(canonical) !== 0) return certificate.checkIP(canonical) !== undefined;
  return certificate.checkHost(canonical, { subject: "never", partialWildcards: false }) !== undefined;
}
