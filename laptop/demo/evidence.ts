import { generateKeyPairSync, sign } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { concatBytes, decodeUtf8, encodeUtf8, fromAnyBase64, fromBase64, sha256, toBase64url } from "@sealpod/core";
import { PspClient } from "@sealpod/psp";
import type { LaptopFetch, Up } from "@sealpod/services";
import { fetchReport } from "@sealpod/tsm";
import type { PodMachine } from "@sealpod/machine";
import { call, type Answer } from "./access.ts";

/** What the attestation service is shown: specs/attestation.md 4.2. */
export interface Evidence {
  /** 1184 bytes. */
  readonly report: Uint8Array;
  /** PEM of VCEK, ASK and ARK. */
  readonly chain: string;
  /** COSE_Sign1 over the launch measurement. */
  readonly endorsement: Uint8Array;
  /** The bytes whose SHA-256 is the first half of REPORT_DATA. */
  readonly runtimeData: Uint8Array;
}

/** A fresh RSA key to wrap to, as the sidecar makes one inside the guest. */
export interface WrappingKey {
  /** JWKS text with the public key: the runtime data. */
  readonly jwks: Uint8Array;
  /** PKCS#8 PEM. */
  readonly privateKey: string;
}

/** @param kid name of the key in the JWKS */
export function makeWrappingKey(kid: string): WrappingKey {
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const { e, n } = publicKey.export({ format: "jwk" });
  const jwks = encodeUtf8(JSON.stringify({ keys: [{ e, key_ops: ["encrypt"], kid, kty: "RSA", n }] }));
  return { jwks, privateKey: privateKey.export({ format: "pem", type: "pkcs8" }).toString() };
}

/**
 * Evidence of a guest with this HOST_DATA, from the emulated processor. On hardware nobody outside of the guest gets such a
 * report; here whoever can open the emulator's socket does. That is what EMULATED means.
 */
export async function collectEvidence(up: Up, measured: PodMachine["measured"], hostData: Uint8Array, runtimeData: Uint8Array): Promise<Evidence> {
  const psp = new PspClient(up.sockets.psp);
  const launched = await psp.launch({ ...measured, hostData });
  try {
    const reportData = concatBytes(sha256(runtimeData), new Uint8Array(32));
    const { report } = await fetchReport(join(launched.guestInfoDirectory, "tsm", "report"), reportData);
    const endorsement = fromBase64((await readFile(join(launched.guestInfoDirectory, "security-context", "reference-info-base64"), "utf8")).trim());
    return { report, chain: await psp.fetchChain(), endorsement, runtimeData };
  } finally {
    await launched.close();
  }
}

/** Asks the attestation service for a token, with the sidecar's request. */
export async function attest(up: Up, fetch: LaptopFetch, evidence: Evidence): Promise<Answer> {
  const uvm = toBase64url(encodeUtf8(JSON.stringify({ Uvm: [toBase64url(evidence.endorsement)] })));
  const report = { SnpReport: toBase64url(evidence.report), VcekCertChain: toBase64url(encodeUtf8(evidence.chain)), Endorsements: uvm };
  return call(fetch, "POST", `https://${up.endpoints.attestation}/attest/SevSnpVm?api-version=2020-10-01`, {
    report: toBase64url(encodeUtf8(JSON.stringify(report))),
    runtimeData: { data: toBase64url(evidence.runtimeData), dataType: "JSON" },
  });
}

/** The same claims under a key of our own that claims to be the authority's: same header, same `kid`. */
export function forgeToken(token: string): string {
  const [header = "", payload = ""] = token.split(".");
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const signature = sign("sha256", encodeUtf8(`${header}.${payload}`), privateKey);
  return `${header}.${payload}.${toBase64url(signature)}`;
}

/** Claims of a token, unverified: for showing only. */
export function claimsOf(token: string): Readonly<Record<string, unknown>> {
  return JSON.parse(decodeUtf8(fromAnyBase64(token.split(".")[1] ?? ""))) as Record<string, unknown>;
}
