import { concatBytes, fromBase64, fromHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { caExtensions, type Identity, NOW, testCertificate, testKey } from "./testdata/authority.ts";
import { FOREIGN_CRL } from "./testdata/foreign-crl.ts";
import {
  basicConstraints,
  type Crl,
  type CrlTemplate,
  encodeBitString,
  encodeBoolean,
  encodeEnumerated,
  encodeExplicit,
  encodeGeneralizedTime,
  encodeInteger,
  encodeName,
  encodeOctetString,
  encodeOid,
  encodeSequence,
  encodeSignatureAlgorithm,
  encodeTime,
  isRevoked,
  issueCrl,
  keyAnchor,
  keyUsage,
  MAX_CRL_BYTES,
  MAX_CRL_ENTRIES,
  OID,
  parseCertificate,
  parseCrl,
  type RevocationCheck,
  serialKey,
  verifyChain,
  verifyCrl,
} from "./index.ts";

const DAY = 86_400_000;
const clock = { now: () => NOW };

function list(issuer: Identity, changes: Partial<CrlTemplate> = {}): Crl {
  return issueCrl({
    issuer: { name: issuer.certificate.subject, key: issuer.key },
    signatureAlgorithm: issuer.key.asymmetricKeyType === "rsa" ? "rsa-pss-sha384" : "ecdsa-sha256",
    thisUpdate: NOW - DAY,
    nextUpdate: NOW + DAY,
    revoked: [],
    ...changes,
  });
}

function revoked(...identities: readonly Identity[]): CrlTemplate["revoked"] {
  return identities.map(({ certificate }) => ({ serial: certificate.serial, revokedAt: NOW - DAY, reason: "keyCompromise" }));
}

describe("RFC 5280 section 5: writing and reading", () => {
  const issuer = testCertificate("issuer", { key: testKey("rsa"), extensions: caExtensions() });

  it("gives back what was put in, signed as AMD signs", () => {
    const crl = list(issuer, {
      number: 7n,
      revoked: [
        { serial: 0n, revokedAt: NOW - 3000, reason: "unspecified" },
        { serial: (1n << 159n) - 1n, revokedAt: Date.UTC(2051, 0, 1), reason: "aACompromise", invalidFrom: Date.UTC(1999, 11, 31) },
        { serial: 5n, revokedAt: NOW },
      ],
    });
    expect([crl.signatureAlgorithm, crl.thisUpdate, crl.nextUpdate, crl.number]).toEqual(["rsa-pss-sha384", NOW - DAY, NOW + DAY, 7n]);
    expect([...crl.revoked.values()]).toEqual([
      { serial: 0n, revokedAt: NOW - 3000, reason: "unspecified", invalidFrom: undefined },
      { serial: (1n << 159n) - 1n, revokedAt: Date.UTC(2051, 0, 1), reason: "aACompromise", invalidFrom: Date.UTC(1999, 11, 31) },
      { serial: 5n, revokedAt: NOW, reason: undefined, invalidFrom: undefined },
    ]);
    expect(crl.revoked.get(serialKey(5n))?.serial).toBe(5n);
    expect(verifyCrl(crl, issuer.certificate, { clock }).crl).toBe(crl);
  });

  it("reads a list that another implementation made", () => {
    const certificate = parseCertificate(fromBase64(FOREIGN_CRL.certificate));
    const crl = parseCrl(fromBase64(FOREIGN_CRL.crl));
    expect([crl.number, crl.thisUpdate, crl.nextUpdate, crl.extensions.size]).toEqual([513n, Date.UTC(2026, 10, 1), Date.UTC(2026, 11, 1), 2]);
    expect([...crl.revoked.values()]).toEqual([
      { serial: 0x10001n, revokedAt: Date.UTC(2026, 9, 2, 3, 4, 5), reason: "cACompromise", invalidFrom: Date.UTC(2026, 8, 1) },
      { serial: (1n << 159n) - 1n, revokedAt: Date.UTC(2026, 9, 3), reason: undefined, invalidFrom: undefined },
    ]);
    expect(isRevoked(verifyCrl(crl, certificate, { clock }), certificate)).toBe(false);
  });

  it.each(["rsa-sha256", "rsa-pss-sha512"] as const)("signs with %s", (signatureAlgorithm) => {
    expect(verifyCrl(list(issuer, { signatureAlgorithm }), issuer.certificate, { clock }).crl.signatureAlgorithm).toBe(signatureAlgorithm);
  });

  it("keeps a copy, so that the caller's buffer can change", () => {
    const bytes = Uint8Array.from(list(issuer).der);
    const crl = parseCrl(bytes);
    bytes.fill(0);
    expect(verifyCrl(crl, issuer.certificate, { clock }).kind).toBe("verified-crl");
  });

  it("refuses templates that cannot be issued", () => {
    expect(() => list(issuer, { nextUpdate: NOW - 2 * DAY })).toThrow(expect.objectContaining({ code: "ERR_PKI_CRL" }));
    expect(() => list(issuer, { signatureAlgorithm: "ecdsa-sha256" })).toThrow(expect.objectContaining({ code: "ERR_PKI_KEY" }));
    expect(() => list(issuer, { revoked: [...revoked(issuer), ...revoked(issuer)] })).toThrow(expect.objectContaining({ code: "ERR_PKI_CRL" }));
    expect(() => list(issuer, { revoked: [{ serial: 1n, revokedAt: NOW, reason: "removeFromCRL" }] })).toThrow(
      expect.objectContaining({ code: "ERR_PKI_CRL" }),
    );
    expect(() => list(issuer, { revoked: [{ serial: 1n, revokedAt: NOW, reason: "boredom" as "superseded" }] })).toThrow(
      expect.objectContaining({ code: "ERR_PKI_TEMPLATE" }),
    );
    expect(() => list(issuer, { thisUpdate: Number.NaN })).toThrow(expect.objectContaining({ code: "ERR_PKI_TEMPLATE" }));
  });
});

const FIELDS = {
  version: encodeInteger(1),
  algorithm: encodeSignatureAlgorithm("ecdsa-sha256"),
  issuer: encodeName([{ type: OID.commonName, value: "issuer" }]).der,
  thisUpdate: encodeTime(NOW),
  nextUpdate: encodeTime(NOW + DAY),
  revoked: new Uint8Array() as Uint8Array,
  extensions: new Uint8Array() as Uint8Array,
};
const NOTHING = new Uint8Array();

/** A CRL of hand-made parts; the signature is not one. */
function assemble(
  changes: Partial<typeof FIELDS>,
  outerAlgorithm: Uint8Array = FIELDS.algorithm,
  signature: Uint8Array = encodeBitString(Uint8Array.of(1)),
): Uint8Array {
  return encodeSequence(encodeSequence(...Object.values({ ...FIELDS, ...changes })), outerAlgorithm, signature);
}

function extension(oid: string, value: Uint8Array, critical = false): Uint8Array {
  return encodeSequence(encodeOid(oid), ...(critical ? [encodeBoolean(true)] : []), encodeOctetString(value));
}

function withExtensions(...extensions: readonly Uint8Array[]): Uint8Array {
  return assemble({ extensions: encodeExplicit(0, encodeSequence(...extensions)) });
}

function entry(serial: Uint8Array, ...rest: readonly Uint8Array[]): Uint8Array {
  return encodeSequence(serial, ...(rest.length === 0 ? [encodeTime(NOW)] : rest));
}

function withEntries(...entries: readonly Uint8Array[]): Uint8Array {
  return assemble({ revoked: encodeSequence(...entries) });
}

function withDetails(...details: readonly Uint8Array[]): Uint8Array {
  return withEntries(entry(encodeInteger(1), encodeTime(NOW), encodeSequence(...details)));
}

describe("the largest CRLs", () => {
  /** Entries with the serial (index << 64) + 2^88 + 5: written in place, for encoders would take longer than the reader that is tested. */
  const many = (count: number): Uint8Array => {
    const one = entry(encodeInteger((1n << 88n) | 5n));
    const entries = Buffer.concat(Array.from({ length: count }, () => one));
    for (let index = 0; index < count; index++) entries.writeUIntBE(index, index * one.length + 5, 3);
    return withEntries(new Uint8Array(entries));
  };

  it("have a hundred thousand serials and no more, and those asked for are found, also if all share their low 64 bits", () => {
    const crl = parseCrl(many(MAX_CRL_ENTRIES));
    // One more is refused for what it is: it is the same list but for its last entry.
    expect(() => parseCrl(many(MAX_CRL_ENTRIES + 1))).toThrow(expect.objectContaining({ code: "ERR_PKI_LIMIT" }));
    expect(crl.revoked.size).toBe(MAX_CRL_ENTRIES);
    const serialOf = (index: number): bigint => (1n << 88n) | (BigInt(index) << 64n) | 5n;
    for (let index = 0; index < MAX_CRL_ENTRIES; index += 7)
      if (crl.revoked.get(serialKey(serialOf(index)))?.serial !== serialOf(index)) expect.fail(String(index));
    expect(crl.revoked.has(serialKey(serialOf(MAX_CRL_ENTRIES)))).toBe(false);
    expect(crl.revoked.has(serialKey(5n))).toBe(false);
  });

  it("are written without running out of stack", () => {
    const issuer = testCertificate("issuer", { extensions: caExtensions() });
    expect(list(issuer, { revoked: Array.from({ length: 20_000 }, (_, index) => ({ serial: BigInt(index), revokedAt: NOW })) }).revoked.size).toBe(20_000);
  });
});

describe("malformed CRLs", () => {
  it("accepts the parts that the cases below change", () => {
    expect(parseCrl(assemble({})).revoked.size).toBe(0);
    expect(parseCrl(withEntries()).revoked.size).toBe(0);
    expect(parseCrl(withEntries(entry(encodeInteger(1)), entry(encodeInteger(2)))).revoked.size).toBe(2);
    expect(parseCrl(withExtensions(extension(OID.authorityKeyIdentifier, NOTHING), extension("1.2.3", NOTHING))).extensions.size).toBe(2);
    const details = parseCrl(withDetails(extension("1.2.3", NOTHING), extension(OID.reasonCode, encodeEnumerated(6), true))).revoked.get(serialKey(1n));
    expect(details?.reason).toBe("certificateHold");
  });

  it.each<[string, string, Uint8Array]>([
    ["an empty input", "ERR_PKI_DER", NOTHING],
    ["bytes after the list", "ERR_PKI_DER", concatBytes(assemble({}), Uint8Array.of(0))],
    ["more bytes than the limit", "ERR_PKI_LIMIT", new Uint8Array(MAX_CRL_BYTES + 1)],
    ["version 1", "ERR_PKI_CRL", assemble({ version: NOTHING })],
    ["version 1 written out", "ERR_PKI_CRL", assemble({ version: encodeInteger(0) })],
    ["version 3", "ERR_PKI_CRL", assemble({ version: encodeInteger(2) })],
    ["different algorithms inside and outside", "ERR_PKI_CRL", assemble({}, encodeSignatureAlgorithm("ecdsa-sha384"))],
    ["an unknown algorithm", "ERR_PKI_ALGORITHM", assemble({ algorithm: encodeSequence(encodeOid("1.2.840.113549.1.1.5")) })],
    ["an empty issuer", "ERR_PKI_CRL", assemble({ issuer: encodeSequence() })],
    ["no nextUpdate", "ERR_PKI_CRL", assemble({ nextUpdate: NOTHING })],
    ["a nextUpdate before thisUpdate", "ERR_PKI_CRL", assemble({ nextUpdate: encodeTime(NOW - 1000) })],
    ["a GeneralizedTime before 2050", "ERR_PKI_DER", assemble({ thisUpdate: encodeGeneralizedTime(NOW) })],
    ["a signature that is not whole bytes", "ERR_PKI_CRL", assemble({}, FIELDS.algorithm, encodeBitString(Uint8Array.of(0xf0), 4))],
    ["a negative serial", "ERR_PKI_CRL", withEntries(entry(fromHex("0201ff")))],
    ["a serial of 21 bytes", "ERR_PKI_CRL", withEntries(entry(encodeInteger(1n << 160n)))],
    ["a serial with a leading zero", "ERR_PKI_DER", withEntries(entry(fromHex("02020001")))],
    ["a serial twice", "ERR_PKI_CRL", withEntries(entry(encodeInteger(1)), entry(encodeInteger(2)), entry(encodeInteger(1), encodeTime(NOW + 1000)))],
    ["an entry without date", "ERR_PKI_DER", withEntries(encodeSequence(encodeInteger(1)))],
    ["an entry with more", "ERR_PKI_DER", withEntries(entry(encodeInteger(1), encodeTime(NOW), encodeInteger(1)))],
    ["an entry with no extension in its list", "ERR_PKI_DER", withDetails()],
    ["a reason twice", "ERR_PKI_CRL", withDetails(extension(OID.reasonCode, encodeEnumerated(1)), extension(OID.reasonCode, encodeEnumerated(1)))],
    ["the unused reason 7", "ERR_PKI_CRL", withDetails(extension(OID.reasonCode, encodeEnumerated(7)))],
    ["removeFromCRL", "ERR_PKI_CRL", withDetails(extension(OID.reasonCode, encodeEnumerated(8)))],
    ["a reason above 10", "ERR_PKI_DER", withDetails(extension(OID.reasonCode, encodeEnumerated(11)))],
    ["a negative reason", "ERR_PKI_DER", withDetails(extension(OID.reasonCode, fromHex("0a01ff")))],
    ["a reason that is an INTEGER", "ERR_PKI_DER", withDetails(extension(OID.reasonCode, encodeInteger(1)))],
    ["bytes after a reason", "ERR_PKI_DER", withDetails(extension(OID.reasonCode, fromHex("0a010100")))],
    ["an invalidity date in UTCTime", "ERR_PKI_DER", withDetails(extension(OID.invalidityDate, encodeTime(NOW)))],
    ["an entry of another issuer", "ERR_PKI_CRL", withDetails(extension(OID.certificateIssuer, encodeSequence()))],
    ["an entry with a critical extension that nobody knows", "ERR_PKI_CRL", withDetails(extension("1.2.3", NOTHING, true))],
    ["a delta CRL", "ERR_PKI_CRL", withExtensions(extension(OID.deltaCrlIndicator, encodeInteger(1), true))],
    ["a delta CRL that is not marked critical", "ERR_PKI_CRL", withExtensions(extension(OID.deltaCrlIndicator, encodeInteger(1)))],
    ["a CRL for one distribution point", "ERR_PKI_CRL", withExtensions(extension(OID.issuingDistributionPoint, encodeSequence(), true))],
    ["a critical extension that nobody knows", "ERR_PKI_CRL", withExtensions(extension("1.2.3", NOTHING, true))],
    ["an extension twice", "ERR_PKI_CRL", withExtensions(extension("1.2.3", NOTHING), extension("1.2.3", NOTHING))],
    ["no extension in the list", "ERR_PKI_DER", withExtensions()],
    ["a negative number", "ERR_PKI_CRL", withExtensions(extension(OID.crlNumber, fromHex("0201ff")))],
    ["a number of 21 bytes", "ERR_PKI_CRL", withExtensions(extension(OID.crlNumber, encodeInteger(1n << 160n)))],
    ["bytes after the number", "ERR_PKI_DER", withExtensions(extension(OID.crlNumber, fromHex("02010100")))],
    [
      "bytes after the extensions",
      "ERR_PKI_DER",
      assemble({ extensions: concatBytes(encodeExplicit(0, encodeSequence(extension("1.2.3", NOTHING))), encodeInteger(1)) }),
    ],
  ])("refuses %s", (_name, code, bytes) => {
    expect(() => parseCrl(bytes)).toThrow(expect.objectContaining({ code }));
  });
});

describe("verifyCrl", () => {
  const issuer = testCertificate("issuer", { extensions: caExtensions() });
  const child = testCertificate("child", { issuer, serial: 77n });

  it("tells the revoked from the others", () => {
    const verified = verifyCrl(list(issuer, { revoked: revoked(child) }), issuer.certificate, { clock });
    expect(isRevoked(verified, child.certificate)).toBe(true);
    expect(isRevoked(verified, testCertificate("other", { issuer, serial: 78n }).certificate)).toBe(false);
  });

  it("does not say anything about the certificates of others", () => {
    const stranger = testCertificate("stranger", { serial: 77n });
    expect(() => isRevoked(verifyCrl(list(issuer), issuer.certificate, { clock }), stranger.certificate)).toThrow(
      expect.objectContaining({ code: "ERR_PKI_CRL" }),
    );
  });

  it.each<[string, RegExp, () => Crl, () => Identity]>([
    [
      "another's name",
      /the certificate given for its issuer is/,
      () => list(issuer),
      () => testCertificate("other", { key: issuer.key, extensions: caExtensions() }),
    ],
    ["another's key", /another key of the same name/, () => list(issuer), () => testCertificate("issuer", { extensions: caExtensions() })],
    [
      "another type of key",
      /another key of the same name/,
      () => list(issuer),
      () => testCertificate("issuer", { key: testKey("rsa"), extensions: caExtensions() }),
    ],
    [
      "a certificate that may not sign lists",
      /not for signing CRLs/,
      () => list(issuer),
      () => testCertificate("issuer", { key: issuer.key, extensions: [basicConstraints({ ca: true }), keyUsage("keyCertSign")] }),
    ],
    [
      "a certificate that is no CA",
      /not for signing CRLs/,
      () => list(issuer),
      () => testCertificate("issuer", { key: issuer.key, extensions: [keyUsage("cRLSign")] }),
    ],
    ["a successor that was due", /its successor was due/, () => list(issuer, { nextUpdate: NOW - 1000 }), () => issuer],
    ["a date to come", /is of 2026/, () => list(issuer, { thisUpdate: NOW + 1000 }), () => issuer],
  ])("refuses %s", (_name, message, crl, certificate) => {
    expect(() => verifyCrl(crl(), certificate().certificate, { clock })).toThrow(
      expect.objectContaining({ code: "ERR_PKI_CRL", message: expect.stringMatching(message) as string }),
    );
  });

  it("accepts a CA without key usage, and the first and last moment", () => {
    const plain = testCertificate("issuer", { key: issuer.key, extensions: [basicConstraints({ ca: true })] });
    for (const time of [NOW - DAY, NOW + DAY + 999]) verifyCrl(list(issuer), plain.certificate, { clock: { now: () => time } });
  });

  it("refuses any byte of the signed part that was changed", () => {
    const crl = list(issuer, { number: 3n, revoked: revoked(child) });
    const start = Buffer.from(crl.der).indexOf(crl.tbs);
    for (let at = start; at < start + crl.tbs.length; at++) {
      for (const bit of [0x01, 0x80]) {
        const changed = Uint8Array.from(crl.der);
        changed[at] = (changed[at] ?? 0) ^ bit;
        expect(() => verifyCrl(parseCrl(changed), issuer.certificate, { clock }), `byte ${at}`).toThrow(expect.objectContaining({ name: "PkiError" }));
      }
    }
  });
});

describe("revocation in a chain", () => {
  const root = testCertificate("root", { key: testKey("rsa"), extensions: caExtensions(), serial: 10n });
  const middle = testCertificate("middle", { issuer: root, extensions: caExtensions(0), serial: 11n });
  const leaf = testCertificate("leaf", { issuer: middle, serial: 12n });
  const good = list(root);

  function verify(crls: RevocationCheck["crls"], missing: RevocationCheck["missing"] = "refuse"): string {
    return verifyChain(
      [leaf, middle, root].map(({ certificate }) => certificate),
      { anchors: [keyAnchor(root.certificate)], validity: { kind: "now", clock }, revocation: { crls, missing, clock } },
    ).kind;
  }

  it("accepts what nobody revoked; a leaf needs no list", () => {
    expect(verify([good])).toBe("verified-chain");
    expect(verify([list(middle), good])).toBe("verified-chain");
    expect(verify([list(testCertificate("stranger", { extensions: caExtensions() })), good])).toBe("verified-chain");
  });

  it("refuses a revoked intermediate, whatever `missing` says", () => {
    const crl = list(root, { revoked: revoked(middle) });
    for (const missing of ["accept", "refuse"] as const) {
      expect(() => verify([crl], missing)).toThrow(
        expect.objectContaining({
          code: "ERR_PKI_REVOKED",
          message: expect.stringMatching(/CN=middle was revoked by .*CN=root at 2026-11-21.*\(keyCompromise\)$/) as string,
        }),
      );
    }
  });

  it("refuses a revoked leaf if its issuer has a list", () => {
    expect(() => verify([good, list(middle, { revoked: revoked(leaf) })])).toThrow(/CN=leaf was revoked/);
  });

  it("takes a hold for a revocation", () => {
    expect(() => verify([list(root, { revoked: [{ serial: 11n, revokedAt: NOW, reason: "certificateHold" }] })])).toThrow(
      expect.objectContaining({ code: "ERR_PKI_REVOKED" }),
    );
  });

  it("does not take one issuer's serials for another's, nor ask about the anchor", () => {
    expect(verify([list(root, { revoked: revoked(leaf, root) }), list(middle, { revoked: revoked(middle) })])).toBe("verified-chain");
  });

  it("does with a missing list what the caller said: somebody may have withheld it", () => {
    expect(verify([], "accept")).toBe("verified-chain");
    expect(verify([list(middle)], "accept")).toBe("verified-chain");
    for (const crls of [[], [list(middle)]]) {
      expect(() => verify(crls)).toThrow(
        expect.objectContaining({
          code: "ERR_PKI_CRL",
          message: expect.stringMatching(/CN=middle: no CRL of its issuer .*CN=root/) as string,
          hint: expect.stringMatching(/Fetch/) as string,
        }),
      );
    }
  });

  it("refuses a list that is out of date although a missing one would be accepted", () => {
    const old = list(root, { thisUpdate: NOW - 9 * DAY, nextUpdate: NOW - DAY });
    expect(() => verify([old], "accept")).toThrow(
      expect.objectContaining({
        code: "ERR_PKI_CRL",
        message: expect.stringMatching(/its successor was due/) as string,
        hint: "Fetch the issuer's current CRL.",
      }),
    );
    const early = list(root, { thisUpdate: NOW + DAY, nextUpdate: NOW + 2 * DAY });
    expect(() => verify([early], "accept")).toThrow(expect.objectContaining({ code: "ERR_PKI_CRL", hint: "Check the clock of this machine." }));
    const oldOfLeaf = list(middle, { thisUpdate: NOW - 9 * DAY, nextUpdate: NOW - DAY });
    expect(() => verify([good, oldOfLeaf], "accept")).toThrow(expect.objectContaining({ code: "ERR_PKI_CRL" }));
  });

  it.each([Number.NaN, Infinity, -Infinity, 1e300])("refuses every list when the clock says %d, which is no time", (time) => {
    expect(() => verifyCrl(good, root.certificate, { clock: { now: () => time } })).toThrow(
      expect.objectContaining({ code: "ERR_PKI_CRL", message: expect.stringContaining(`it is no time (${time})`) as string }),
    );
  });

  it("asks the newest list only, in whatever order they come", () => {
    const older = list(root, { thisUpdate: NOW - 2 * DAY, nextUpdate: NOW + 9 * DAY, number: 9n });
    const newer = list(root, { revoked: revoked(middle), number: 3n });
    for (const crls of [
      [older, newer],
      [newer, older],
    ])
      expect(() => verify(crls)).toThrow(expect.objectContaining({ code: "ERR_PKI_REVOKED" }));
    const released = list(root, { thisUpdate: NOW - 1000 });
    for (const crls of [
      [released, newer],
      [newer, released],
    ])
      expect(verify(crls)).toBe("verified-chain");
    // The newest has run out: that an older one would still be in date does not help.
    const short = list(root, { thisUpdate: NOW - 3 * DAY, nextUpdate: NOW - 2 * DAY });
    const long = list(root, { thisUpdate: NOW - 9 * DAY, nextUpdate: NOW + 9 * DAY });
    expect(() => verify([long, short])).toThrow(expect.objectContaining({ code: "ERR_PKI_CRL" }));
  });

  it("goes by the number, and then by every list, if two are of the same second", () => {
    const first = list(root, { number: 1n, revoked: revoked(middle) });
    const second = list(root, { number: 2n });
    expect(verify([first, second])).toBe("verified-chain");
    expect(verify([second, first])).toBe("verified-chain");
    const twin = list(root, { number: 2n, revoked: revoked(middle) });
    for (const crls of [
      [second, twin],
      [twin, second],
    ])
      expect(() => verify(crls)).toThrow(expect.objectContaining({ code: "ERR_PKI_REVOKED" }));
  });

  it("refuses a list in the issuer's name that it did not sign, unless one stands there that it did", () => {
    const namesake = testCertificate("root", { key: testKey("rsa"), extensions: caExtensions() });
    const forged = list(namesake, { thisUpdate: NOW - 1000 });
    for (const missing of ["accept", "refuse"] as const) {
      expect(() => verify([forged], missing)).toThrow(
        expect.objectContaining({ code: "ERR_PKI_CRL", hint: expect.stringMatching(/out of the list/) as string }),
      );
    }
    expect(verify([forged, good])).toBe("verified-chain");
    // The forgery is newer, and says that nothing was revoked: it does not count.
    expect(() => verify([forged, list(root, { revoked: revoked(middle) })])).toThrow(expect.objectContaining({ code: "ERR_PKI_REVOKED" }));
    // It does not revoke either.
    expect(verify([list(namesake, { thisUpdate: NOW - 1000, revoked: revoked(middle) }), good])).toBe("verified-chain");
  });

  it("refuses a list of a CA that may not sign lists", () => {
    const mute = testCertificate("mute", { extensions: [basicConstraints({ ca: true }), keyUsage("keyCertSign")] });
    const child = testCertificate("child", { issuer: mute });
    expect(() =>
      verifyChain([child.certificate, mute.certificate], {
        anchors: [keyAnchor(mute.certificate)],
        validity: { kind: "now", clock },
        revocation: { crls: [list(mute)], missing: "accept", clock },
      }),
    ).toThrow(expect.objectContaining({ code: "ERR_PKI_CRL" }));
  });

  it("looks at the dates of a list that was verified before, and at whose it is", () => {
    const then = { now: () => NOW - 5 * DAY };
    const old = verifyCrl(list(root, { thisUpdate: NOW - 9 * DAY, nextUpdate: NOW - DAY }), root.certificate, { clock: then });
    expect(() => verify([old], "accept")).toThrow(/its successor was due/);
    expect(verify([verifyCrl(good, root.certificate, { clock })])).toBe("verified-chain");
    expect(() => verify([verifyCrl(list(root, { revoked: revoked(middle) }), root.certificate, { clock })])).toThrow(/CN=middle was revoked/);
    const namesake = testCertificate("root", { key: testKey("rsa"), extensions: caExtensions() });
    expect(() => verify([verifyCrl(list(namesake), namesake.certificate, { clock })], "accept")).toThrow(/another key of the same name/);
  });

  it("says that a chain does not verify before it says that it was revoked", () => {
    const stranger = testCertificate("root", { extensions: caExtensions() });
    expect(() =>
      verifyChain([middle.certificate, stranger.certificate], {
        anchors: [keyAnchor(root.certificate)],
        validity: { kind: "now", clock },
        revocation: { crls: [list(root, { revoked: revoked(middle) })], missing: "refuse", clock },
      }),
    ).toThrow(expect.objectContaining({ code: "ERR_PKI_ANCHOR" }));
  });
});
