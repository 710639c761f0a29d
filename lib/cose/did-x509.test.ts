import { createHash } from "node:crypto";
import { extendedKeyUsage, OID, subjectAltName } from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import { ecKey, EKU, testSigner } from "./testdata/signer.ts";
import { formatDidX509Eku, MAX_DID_LENGTH, MAX_DID_POLICIES, parseDidX509, verifyDidX509 } from "./index.ts";

const signer = testSigner(ecKey("prime256v1"), {
  subject: [
    { type: OID.organization, value: "Sealpod: tests" },
    { type: OID.commonName, value: "leaf" },
    { type: OID.commonName, value: "twice" },
  ],
  extensions: [
    extendedKeyUsage(EKU, "1.2.3"),
    subjectAltName({ kind: "dns", value: "a.example" }, { kind: "uri", value: "https://a.example/x" }, { kind: "email", value: "a@b.example" }),
  ],
});
const [leaf, middle, root] = signer.chain;
const PREFIX = formatDidX509Eku(root, EKU).split("::")[0] ?? "";
const FINGERPRINT = PREFIX.split(":")[4] ?? "";

describe("did:x509 version 0", () => {
  it("is made of a certificate and a purpose", () => {
    expect(formatDidX509Eku(root, EKU)).toMatch(/^did:x509:0:sha256:[A-Za-z0-9_-]{43}::eku:1\.3\.6\.1\.4\.1\.311\.76\.59\.1\.5$/);
  });

  it("names any certificate above the leaf", () => {
    expect(verifyDidX509(parseDidX509(formatDidX509Eku(root, EKU)), signer.chain).certificates).toHaveLength(3);
    expect(verifyDidX509(parseDidX509(formatDidX509Eku(middle, EKU)), signer.chain).certificates).toHaveLength(2);
    expect(() => verifyDidX509(parseDidX509(formatDidX509Eku(leaf, EKU)), signer.chain)).toThrow(expect.objectContaining({ code: "ERR_COSE_DID" }));
  });

  it.each(["sha256", "sha384", "sha512"] as const)("takes a %s fingerprint", (hash) => {
    const fingerprint = createHash(hash).update(root.der).digest("base64url");
    expect(verifyDidX509(parseDidX509(`did:x509:0:${hash}:${fingerprint}::eku:${EKU}`), signer.chain).leaf).toBe(leaf);
  });

  it.each([
    `eku:${EKU}`,
    "eku:1.2.3",
    "subject:O:Sealpod%3A%20tests",
    "san:dns:a.example",
    "san:uri:https%3A%2F%2Fa.example%2Fx",
    "san:email:a%40b.example",
    `eku:${EKU}::subject:O:Sealpod%3A%20tests::san:dns:a.example`,
    `subject:${OID.organization}:Sealpod%3A%20tests`,
  ])("is met: %s", (policies) => {
    expect(verifyDidX509(parseDidX509(`${PREFIX}::${policies}`), signer.chain).leaf).toBe(leaf);
  });

  it.each([
    "eku:1.2.4",
    "eku:1.2",
    "subject:O:Sealpod",
    "subject:O:sealpod%3A%20tests",
    "subject:C:NO",
    "subject:CN:leaf",
    "san:dns:b.example",
    "san:email:a.example",
    `eku:${EKU}::eku:1.2.4`,
  ])("is not met: %s", (policies) => {
    expect(() => verifyDidX509(parseDidX509(`${PREFIX}::${policies}`), signer.chain)).toThrow(expect.objectContaining({ code: "ERR_COSE_DID" }));
  });

  it("needs a chain that verifies", () => {
    const did = parseDidX509(formatDidX509Eku(root, EKU));
    const other = testSigner(ecKey("prime256v1"), {});
    expect(() => verifyDidX509(did, [other.chain[0], middle, root])).toThrow(expect.objectContaining({ code: "ERR_COSE_CERTIFICATE" }));
    expect(() => verifyDidX509(did, [leaf, root])).toThrow(expect.objectContaining({ code: "ERR_COSE_CERTIFICATE" }));
    expect(() => verifyDidX509(did, other.chain)).toThrow(expect.objectContaining({ code: "ERR_COSE_DID" }));
    expect(() => verifyDidX509(did, [])).toThrow(expect.objectContaining({ code: "ERR_COSE_DID" }));
    const noCa = testSigner(ecKey("prime256v1"), { intermediateCa: false });
    expect(() => verifyDidX509(parseDidX509(formatDidX509Eku(noCa.chain[2], EKU)), noCa.chain)).toThrow(
      expect.objectContaining({ code: "ERR_COSE_CERTIFICATE" }),
    );
  });

  it.each([
    "",
    "did:x509",
    `did:x509:1:sha256:${FINGERPRINT}::eku:1.2.3`,
    `did:x509:0:sha1:${FINGERPRINT}::eku:1.2.3`,
    `did:x509:0:sha384:${FINGERPRINT}::eku:1.2.3`,
    `did:x509:0:sha256:${FINGERPRINT}=::eku:1.2.3`,
    `did:x509:0:sha256:${FINGERPRINT.slice(0, -1)}::eku:1.2.3`,
    `did:x509:0:sha256:${FINGERPRINT}x::eku:1.2.3`,
    PREFIX,
    `${PREFIX}::`,
    `${PREFIX}::eku`,
    `${PREFIX}::eku:`,
    `${PREFIX}::eku:abc`,
    `${PREFIX}::eku:1.2.3:4.5`,
    `${PREFIX}::eku:1.2.3::`,
    `${PREFIX}::subject`,
    `${PREFIX}::subject:CN`,
    `${PREFIX}::subject:X:y`,
    `${PREFIX}::subject:__proto__:y`,
    `${PREFIX}::subject:CN:a:CN:b`,
    `${PREFIX}::subject:CN:a b`,
    `${PREFIX}::subject:CN:%4`,
    `${PREFIX}::subject:CN:%c3%a5`,
    `${PREFIX}::subject:CN:%FF`,
    `${PREFIX}::san:ip:1.2.3.4`,
    `${PREFIX}::san:dns`,
    `${PREFIX}::san:dns:a:b`,
    `${PREFIX}::fulcio-issuer:a`,
    `${PREFIX}${"::eku:1.2.3".repeat(MAX_DID_POLICIES + 1)}`,
    `${PREFIX}::eku:1.${"2".repeat(MAX_DID_LENGTH)}`,
  ])("is malformed: %.90s", (text) => {
    expect(() => parseDidX509(text)).toThrow(expect.objectContaining({ code: "ERR_COSE_DID" }));
  });
});
