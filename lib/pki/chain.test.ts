import { describe, expect, it } from "vitest";
import { caExtensions, type Identity, NOW, testCertificate, testKey } from "./testdata/authority.ts";
import {
  basicConstraints,
  type Certificate,
  certificateAnchor,
  type ChainOptions,
  type Extension,
  extendedKeyUsage,
  generateKey,
  keyAnchor,
  keyUsage,
  MAX_CHAIN_LENGTH,
  OID,
  orderChain,
  parseCertificate,
  verifyChain,
} from "./index.ts";

const DAY = 86_400_000;
const root = testCertificate("root", { key: testKey("rsa"), extensions: caExtensions(1) });
const middle = testCertificate("middle", { key: testKey("rsa"), issuer: root, extensions: caExtensions(0) });
const leaf = testCertificate("leaf", { issuer: middle });

function verify(chain: readonly (Identity | Certificate)[], options: Partial<ChainOptions> = {}): ReturnType<typeof verifyChain> {
  return verifyChain(
    chain.map((item) => ("certificate" in item ? item.certificate : item)),
    { anchors: [keyAnchor(root.certificate)], validity: { kind: "now", clock: { now: () => NOW } }, ...options },
  );
}

describe("a good chain", () => {
  it("verifies, and says what it rests on", () => {
    const verified = verify([leaf, middle, root]);
    expect(verified.leaf).toBe(leaf.certificate);
    expect(verified.certificates).toHaveLength(3);
    expect(verified.anchor).toEqual(keyAnchor(root.certificate));
  });

  it("may end in a pinned certificate that is not self-signed", () => {
    expect(verify([leaf, middle], { anchors: [certificateAnchor(middle.certificate)] }).anchor.kind).toBe("certificate");
  });

  it("may be a root alone", () => {
    expect(verify([root]).leaf).toBe(root.certificate);
  });

  it("is found among certificates in any order", () => {
    const stranger = testCertificate("stranger").certificate;
    const chain = orderChain(leaf.certificate, [stranger, root.certificate, leaf.certificate, middle.certificate]);
    expect(chain).toEqual([leaf.certificate, middle.certificate, root.certificate]);
    expect(orderChain(leaf.certificate, [stranger])).toEqual([leaf.certificate]);
  });
});

describe("a chain is refused", () => {
  it("when its root is not an anchor, before anything else is looked at", () => {
    const own = testCertificate("root", { key: testKey("p256"), extensions: caExtensions() });
    expect(() => verify([leaf, middle, own])).toThrow(expect.objectContaining({ code: "ERR_PKI_ANCHOR" }));
    expect(() => verify([leaf, middle, root], { anchors: [] })).toThrow(expect.objectContaining({ code: "ERR_PKI_ANCHOR" }));
  });

  it("when a pinned key's certificate is not signed by that key", () => {
    // The attack: the pinned public key in a certificate of the attacker's, with other names and limits.
    const attacker = testCertificate("attacker", { extensions: caExtensions() });
    const forged = testCertificate("root", { key: root.key, issuer: attacker, extensions: caExtensions() });
    expect(() => verify([leaf, middle, forged])).toThrow(expect.objectContaining({ code: "ERR_PKI_ISSUER" }));
    const selfNamed = testCertificate("root", { key: root.key, issuer: { key: attacker.key, certificate: root.certificate }, extensions: caExtensions() });
    expect(() => verify([leaf, middle, selfNamed])).toThrow(expect.objectContaining({ code: expect.stringMatching(/^ERR_PKI_(SIGNATURE|KEY)$/) as string }));
  });

  it("when a certificate is pinned as certificate but only the key is the same", () => {
    const renewed = testCertificate("root", { key: root.key, extensions: caExtensions(5) });
    expect(verify([leaf, middle, renewed]).anchor.kind).toBe("key");
    expect(() => verify([leaf, middle, renewed], { anchors: [certificateAnchor(root.certificate)] })).toThrow(
      expect.objectContaining({ code: "ERR_PKI_ANCHOR" }),
    );
  });

  it("when names do not link", () => {
    expect(() => verify([leaf, root])).toThrow(expect.objectContaining({ code: "ERR_PKI_ISSUER" }));
    expect(() => verify([middle, leaf, root])).toThrow(expect.objectContaining({ code: "ERR_PKI_ISSUER" }));
  });

  it("when any byte of a signed part is changed", () => {
    const { der, tbs } = leaf.certificate;
    const start = der.length - tbs.length > 0 ? der.findIndex((_, at) => at > 0 && Buffer.compare(der.subarray(at, at + tbs.length), tbs) === 0) : 0;
    for (let at = start; at < start + tbs.length; at++) {
      const changed = Uint8Array.from(der);
      changed[at] = (changed[at] ?? 0) ^ 0x01;
      expect(() => verify([parseCertificate(changed), middle.certificate, root.certificate])).toThrow(expect.objectContaining({ name: "PkiError" }));
    }
  });

  it("when the signature is another's", () => {
    const impostor = testCertificate("middle", { key: testKey("rsa"), issuer: root, extensions: caExtensions(0) });
    expect(() => verify([leaf, impostor, root])).toThrow(expect.objectContaining({ code: "ERR_PKI_SIGNATURE" }));
  });

  it.each([
    ["before it is valid", NOW - DAY - 1],
    ["after it was valid", NOW + DAY + 1000],
  ])("%s", (_name, time) => {
    expect(() => verify([leaf, middle, root], { validity: { kind: "now", clock: { now: () => time } } })).toThrow(
      expect.objectContaining({ code: "ERR_PKI_VALIDITY" }),
    );
    expect(verify([leaf, middle, root], { validity: { kind: "ignored", because: "test" } }).kind).toBe("verified-chain");
  });

  it.each([Number.NaN, Infinity, -Infinity, 1e300])("when the clock says %d, which is no time", (time) => {
    expect(() => verify([leaf, middle, root], { validity: { kind: "now", clock: { now: () => time } } })).toThrow(
      expect.objectContaining({ code: "ERR_PKI_VALIDITY", message: expect.stringContaining(`it is no time (${time})`) as string }),
    );
  });

  it("never at the first and last moment of the validity", () => {
    for (const time of [NOW - DAY, NOW + DAY + 999]) verify([leaf, middle, root], { validity: { kind: "now", clock: { now: () => time } } });
  });

  it("when only the root has expired", () => {
    const old = testCertificate("old", { key: testKey("p256"), extensions: caExtensions(), notAfter: NOW - 1000 });
    const below = testCertificate("leaf", { issuer: old });
    expect(() => verify([below, old], { anchors: [keyAnchor(old.certificate)] })).toThrow(/CN=old is valid/);
  });

  it.each<[string, readonly ReturnType<typeof basicConstraints>[]]>([
    ["has no basicConstraints", []],
    ["is not a CA", [basicConstraints({ ca: false })]],
    ["may not sign certificates", [basicConstraints({ ca: true }), keyUsage("digitalSignature", "cRLSign")]],
    ["has a critical extension that nobody knows", [...caExtensions(), { oid: "2.5.29.30", critical: true, value: Uint8Array.of(0x30, 0) }]],
  ])("when an issuer %s", (_name, extensions) => {
    const issuer = testCertificate("issuer", { issuer: root, extensions });
    const below = testCertificate("leaf", { issuer });
    expect(() => verify([below, issuer, root])).toThrow(expect.objectContaining({ code: "ERR_PKI_CONSTRAINT" }));
  });

  it("when the leaf has a critical extension that the caller does not know", () => {
    const special = testCertificate("leaf", { issuer: middle, extensions: [{ oid: "1.2.3", critical: true, value: Uint8Array.of(5, 0) }] });
    expect(() => verify([special, middle, root])).toThrow(expect.objectContaining({ code: "ERR_PKI_CONSTRAINT" }));
    expect(verify([special, middle, root], { knownCritical: ["1.2.3"] }).leaf).toBe(special.certificate);
  });

  it("when a CA is for another purpose than the leaf, and says so critically", () => {
    const purpose = (critical: boolean, ...oids: readonly string[]): Extension => ({ ...extendedKeyUsage(...oids), critical });
    const chainOf = (ca: Extension, end: readonly Extension[]): readonly Identity[] => {
      const issuer = testCertificate("issuer", { issuer: root, extensions: [...caExtensions(), ca] });
      return [testCertificate("leaf", { issuer, extensions: end }), issuer, root];
    };
    const server = [extendedKeyUsage(OID.serverAuth)];
    for (const chain of [
      chainOf(purpose(true, OID.serverAuth, OID.clientAuth), server),
      chainOf(purpose(true, OID.anyExtendedKeyUsage), server),
      chainOf(purpose(false, OID.clientAuth), server),
    ])
      expect(verify(chain).kind).toBe("verified-chain");
    const both = [extendedKeyUsage(OID.serverAuth, OID.clientAuth)];
    for (const end of [server, both, []])
      expect(() => verify(chainOf(purpose(true, OID.clientAuth), end))).toThrow(expect.objectContaining({ code: "ERR_PKI_CONSTRAINT" }));
  });

  it("when it is longer than a path length allows", () => {
    const below = testCertificate("below", { issuer: middle, extensions: caExtensions() });
    const end = testCertificate("end", { issuer: below });
    expect(() => verify([end, below, middle, root])).toThrow(/path length allows 0/);
  });

  it("when it is empty or too long", () => {
    expect(() => verify([])).toThrow(expect.objectContaining({ code: "ERR_PKI_LIMIT" }));
    expect(() => verify(Array.from({ length: MAX_CHAIN_LENGTH + 1 }, () => root))).toThrow(expect.objectContaining({ code: "ERR_PKI_LIMIT" }));
  });
});

describe("generateKey", () => {
  it.each(["rsa-2048", "p256", "p384", "p521"] as const)("makes %s", async (kind) => {
    const key = await generateKey(kind);
    expect(key.type).toBe("private");
    expect(testCertificate("generated", { key, algorithm: kind === "rsa-2048" ? "rsa-sha256" : "ecdsa-sha256" }).certificate.publicKey.kind).toBe(
      kind.split("-")[0],
    );
  });
});
