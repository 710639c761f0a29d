/**
 * The service that bench/attestation.ts loads, in a process of its own: application, store on disk, and the chassis with its limits out of the way. It talks to its parent
 * over IPC: first where it listens and the body of a request, then its CPU time and the ceiling of its core when asked.
 */
import { createPublicKey, generateKeyPairSync, randomBytes, sign, verify } from "node:crypto";
import { join } from "node:path";
import { encodeUvmEndorsement, formatDidX509Eku } from "@sealpod/cose";
import { concatBytes, encodeUtf8, sha256, silentLogger, toBase64url, type Random } from "@sealpod/core";
import { basicConstraints, encodeCertificatesPem, extendedKeyUsage, issueCertificate, keyUsage, OID } from "@sealpod/pki";
import { createService, serve } from "@sealpod/service";
import { attestationApp, openAttestationStore } from "../../verifier/attestation/index.ts";
import { NOW, testProcessor } from "../../lib/snp/testdata/emulated.ts";
import { answerParent, tellParent } from "../load-server.ts";

/** The first message. */
export interface Started {
  readonly url: string;
  readonly body: string;
}

/** The genuine request has 40,498 bytes; ours is filled up to as many, where the service reads and drops it. */
const REQUEST_LENGTH = 40_498;
const EKU = "1.3.6.1.4.1.311.76.59.1.5";
const FEED = "ConfAKS-AMD-UVM";

const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };
const clock = { now: () => NOW };
const directory = process.argv[2];
if (directory === undefined) throw new Error("the first argument is the directory for the database");

const processor = testProcessor("Milan");
const uvm = endorser();
const store = await openAttestationStore({ file: join(directory, "attestation.sqlite"), masterKey: random.bytes(32), clock, random });
const app = attestationApp({
  issuer: "https://attest.bench",
  store,
  clock,
  random,
  roots: [processor.root],
  uvmTrust: [{ issuer: uvm.issuer, feed: FEED, minimumSvn: 1, claim: "azure-signed-katacc-uvm" }],
  logger: silentLogger,
});
const service = createService({
  name: "attestation",
  version: "bench",
  app,
  logger: silentLogger,
  clock: { now: Date.now },
  random,
  limits: { rate: "off" },
  replaceGlobals: true,
});
const server = await serve(service, { host: "127.0.0.1", port: 0 });
const pair = rawPair();

answerParent(pair, async () => {
  await server.stop(0);
  store.close();
});
tellParent({ url: `${server.url}/attest/SevSnpVm?api-version=2020-10-01`, body: requestBody() } satisfies Started);

function rawPair(): () => void {
  const { report } = processor.evidence();
  const signed = report.subarray(0, 0x2a0);
  const ec = generateKeyPairSync("ec", { namedCurve: "P-384" });
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const signature = sign("sha384", signed, { key: ec.privateKey, dsaEncoding: "ieee-p1363" });
  // As long as the part of a token that is signed.
  const token = new Uint8Array(2800);
  return () => {
    if (!verify("sha384", signed, { key: ec.publicKey, dsaEncoding: "ieee-p1363" }, signature)) throw new Error("the ceiling's signature does not verify");
    sign("sha256", token, rsa.privateKey);
  };
}

function endorser(): { readonly issuer: string; readonly endorsement: Uint8Array } {
  const rootKey = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
  const key = generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey;
  const template = { serial: 1n, notBefore: NOW - 86_400_000, notAfter: NOW + 86_400_000, signatureAlgorithm: "rsa-pss-sha384" } as const;
  const root = issueCertificate({
    ...template,
    subject: [{ type: OID.commonName, value: "EMULATED UVM root" }],
    subjectKey: createPublicKey(rootKey),
    issuer: { key: rootKey },
    extensions: [basicConstraints({ ca: true }), keyUsage("keyCertSign")],
  });
  const leaf = issueCertificate({
    ...template,
    subject: [{ type: OID.commonName, value: "EMULATED UVM signer" }],
    subjectKey: createPublicKey(key),
    issuer: { name: root.subject, key: rootKey },
    extensions: [extendedKeyUsage(EKU)],
  });
  const issuer = formatDidX509Eku(root, EKU);
  const endorsement = encodeUvmEndorsement({
    issuer,
    feed: FEED,
    svn: 1,
    launchMeasurement: new Uint8Array(48).fill(4),
    signingTime: NOW,
    chain: [leaf, root],
    key,
    algorithm: "ES384",
  });
  return { issuer, endorsement };
}

function requestBody(): string {
  const { n, e } = generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey.export({ format: "jwk" });
  const runtime = encodeUtf8(JSON.stringify({ keys: [{ kty: "RSA", e, n, kid: "bench", key_ops: ["encrypt"] }] }, undefined, 2));
  const { report } = processor.evidence({ reportData: concatBytes(sha256(runtime), new Uint8Array(32)) });
  const { endorsementKey, intermediate, root } = processor.chain;
  const build = (filler: string): string =>
    JSON.stringify({
      report: text64({
        SnpReport: toBase64url(report),
        VcekCertChain: toBase64url(encodeUtf8(encodeCertificatesPem([endorsementKey, intermediate, root]))),
        Endorsements: text64({ Uvm: [toBase64url(uvm.endorsement)], filler }),
      }),
      runtimeData: { data: toBase64url(runtime), dataType: "JSON" },
      initTimeData: { data: "", dataType: "" },
      nonce: "13202930541250959283",
    });
  // The filler is inside two layers of base64.
  return build("x".repeat(Math.max(0, Math.floor(((REQUEST_LENGTH - build("").length) * 9) / 16))));
}

function text64(value: object): string {
  return toBase64url(encodeUtf8(JSON.stringify(value)));
}
