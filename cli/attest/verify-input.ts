import { parseAttestRequest } from "@sealpod/attestation";
import { parseBundle } from "@sealpod/certcache";
import { asObject, decodeUtf8, encodeUtf8, fromAnyBase64, fromHex, isSealpodError, parseJson, toBase64url, type JsonObject } from "@sealpod/core";
import { parseCertificate, parseCertificatesPem, type Certificate } from "@sealpod/pki";
import { parseCertificateTable, parseThim, REPORT_SIZE } from "@sealpod/snp";
import { CliError } from "../errors.ts";

/** A report and what came with it; nothing about it is verified. */
export interface ReportInput {
  readonly kind: "report";
  /** What the file is, in words. */
  readonly form: string;
  readonly report: Uint8Array;
  readonly certificates: readonly Certificate[];
  /** COSE_Sign1 endorsements of the utility VM. */
  readonly endorsements: readonly Uint8Array[];
  readonly runtimeData: Uint8Array | undefined;
  readonly initTimeData: Uint8Array | undefined;
}

/** A token; nothing about it is verified. */
export interface TokenInput {
  readonly kind: "token";
  readonly form: string;
  readonly token: string;
}

/** Genuine requests have some 40 KiB. */
const MAX_EVIDENCE = 4 * 1024 * 1024;
/** A bundle of the certificate cache with ten thousand chips; what the command line reads at most. */
const MAX_CERTIFICATES = 16 * 1024 * 1024;
/** "HCLA" and 28 bytes more, then the report (specs/attestation.md section 1.10). */
const HCL_MAGIC = "HCLA";
const HCL_HEADER = 0x20;

/**
 * Recognises evidence by its content: a report as bytes, hex or base64, an HCL blob, a request to an attestation service, the combined evidence of the sidecar, or a token.
 * @throws {CliError} ERR_CLI_FILE if it is none of them, and the errors of the formats
 */
export function recogniseEvidence(bytes: Uint8Array, name: string): ReportInput | TokenInput {
  if (bytes.length > MAX_EVIDENCE) throw new CliError("ERR_CLI_FILE", `${name} has ${bytes.length} bytes, more than the limit of ${MAX_EVIDENCE}`);
  const binary = recogniseBinary(bytes);
  if (binary !== undefined) return binary;
  const text = textOf(bytes);
  if (text === undefined) throw unknownEvidence(name, `${bytes.length} bytes that are no text`);
  return recogniseText(text, name);
}

function recogniseBinary(bytes: Uint8Array): ReportInput | undefined {
  // A report has zero bytes, in its version already; a token may happen to be as long.
  if (bytes.length === REPORT_SIZE && textOf(bytes) === undefined) return bareReport("attestation report, raw", bytes);
  if (bytes.length >= HCL_HEADER + REPORT_SIZE && Buffer.from(bytes.subarray(0, 4)).toString("latin1") === HCL_MAGIC) {
    return bareReport("HCL blob of an Azure confidential VM, report at 0x20", bytes.slice(HCL_HEADER, HCL_HEADER + REPORT_SIZE));
  }
  return undefined;
}

function recogniseText(text: string, name: string): ReportInput | TokenInput {
  const trimmed = text.trim();
  if (trimmed.startsWith("{")) return recogniseJson(trimmed, name);
  if (trimmed.startsWith("-----BEGIN")) throw unknownEvidence(name, "PEM", "Certificates are given with --certs, beside the report.");
  const dense = trimmed.replaceAll(/\s+/g, "");
  if (dense.length === REPORT_SIZE * 2 && /^[0-9a-fA-F]*$/.test(dense)) return bareReport("attestation report, hex", fromHex(dense, name));
  if (/^[\w-]+\.[\w-]+\.[\w-]*$/.test(trimmed)) return { kind: "token", form: "attestation token (JWT)", token: trimmed };
  const decoded = base64(dense);
  if (decoded === undefined) throw unknownEvidence(name, `${trimmed.length} characters of text`);
  const binary = recogniseBinary(decoded);
  if (binary !== undefined) return { ...binary, form: `${binary.form.replace(/, raw$/, "")}, base64` };
  const inner = textOf(decoded)?.trim();
  // The report member of a request, as samples print it.
  if (inner?.startsWith("{") === true) return withForm(recogniseJson(inner, name), (form) => `${form}, base64`);
  throw unknownEvidence(name, `base64 of ${decoded.length} bytes`, `A report has ${REPORT_SIZE} bytes.`);
}

function recogniseJson(text: string, name: string): ReportInput | TokenInput {
  const document = asObject(parseJson(text, name));
  if (document === undefined) throw unknownEvidence(name, "JSON that is no object");
  const { report, evidence, token, vcekCert } = document;
  if (typeof evidence === "string") return combinedEvidence(document, name);
  if (typeof token === "string") return { kind: "token", form: "answer of an attestation service with a token", token };
  if (typeof report === "string" && report.length === REPORT_SIZE * 2 && /^[0-9a-fA-F]*$/.test(report)) {
    return bareReport("answer of the sidecar with a report in hex (/attest/raw)", fromHex(report, `${name}: report`));
  }
  if (typeof report === "string") return attestRequest(text, "request to an attestation service (SevSnpVm)");
  if (typeof document["SnpReport"] === "string") {
    return attestRequest(`{"report":"${toBase64url(encodeUtf8(text))}"}`, "report of a request to an attestation service (SevSnpVm)");
  }
  if (typeof vcekCert === "string")
    throw unknownEvidence(name, "a THIM document, which has certificates and no report", "Give it with --certs, beside the report.");
  throw unknownEvidence(name, `a JSON object with the members ${Object.keys(document).slice(0, 10).join(", ").slice(0, 200) || "(none)"}`);
}

function attestRequest(text: string, form: string): ReportInput {
  const { report, certificates, endorsements, runtimeData, initTimeData } = parseAttestRequest(text);
  return {
    kind: "report",
    form,
    report,
    certificates: parseCertificatesPem(certificates, "report.VcekCertChain"),
    endorsements,
    runtimeData: runtimeData?.bytes,
    initTimeData: initTimeData?.bytes,
  };
}

/** The answer of /attest/combined (specs/attestation.md section 5.2). `endorsed_tcb` says nothing that the certificate does not say under a signature. */
function combinedEvidence(document: JsonObject, name: string): ReportInput {
  const member = (key: string): Uint8Array | undefined => {
    const value = document[key];
    if (value === undefined || value === null || value === "") return undefined;
    if (typeof value !== "string") throw unknownEvidence(name, `combined evidence whose member ${key} is no string`);
    return fromAnyBase64(value, `${name}: ${key}`);
  };
  const endorsement = member("uvm_endorsements");
  const certificates = member("endorsements");
  return {
    kind: "report",
    form: "combined evidence of the sidecar (/attest/combined)",
    report: member("evidence") ?? new Uint8Array(),
    certificates: certificates === undefined ? [] : recogniseCertificates(certificates, `${name}: endorsements`),
    endorsements: endorsement === undefined ? [] : [endorsement],
    runtimeData: undefined,
    initTimeData: undefined,
  };
}

/**
 * Recognises certificates by their content: PEM, DER, a THIM document as JSON or its base64, the certificate table of an extended report, or a bundle of the
 * certificate cache.
 * @throws {CliError} ERR_CLI_FILE if it is none of them, and the errors of the formats
 */
export function recogniseCertificates(bytes: Uint8Array, name: string): readonly Certificate[] {
  if (bytes.length > MAX_CERTIFICATES) throw new CliError("ERR_CLI_FILE", `${name} has ${bytes.length} bytes, more than the limit of ${MAX_CERTIFICATES}`);
  // A SEQUENCE whose length takes two bytes: no certificate is shorter, and no text or GUID begins so.
  if (bytes[0] === 0x30 && bytes[1] === 0x82) return [parseCertificate(bytes, name)];
  const text = textOf(bytes)?.trim();
  if (text !== undefined && text.includes("-----BEGIN CERTIFICATE-----") && !text.startsWith("{")) return parseCertificatesPem(text, name);
  if (text?.startsWith("{") === true) return /^\{\s*"kind"/.test(text) ? bundleCertificates(text, name) : thimCertificates(text, name);
  if (text !== undefined && text !== "") {
    const decoded = base64(text.replaceAll(/\s+/g, ""));
    const inner = decoded === undefined ? undefined : textOf(decoded)?.trim();
    if (inner?.startsWith("{") === true) return thimCertificates(inner, name);
    if (inner?.startsWith("-----BEGIN") === true) return parseCertificatesPem(inner, name);
  }
  if (bytes.length >= 24 && text === undefined) return tableCertificates(bytes, name);
  throw new CliError("ERR_CLI_FILE", `${name} has no certificates that are recognised`, {
    hint: "Expected PEM, DER, a THIM document (JSON or its base64), the certificate table of an extended report, or a bundle of `sealpod certcache export`.",
  });
}

function thimCertificates(text: string, name: string): readonly Certificate[] {
  const { vcekCert, certificateChain } = inFile(name, () => parseThim(text));
  return [...parseCertificatesPem(vcekCert, `${name}: vcekCert`), ...parseCertificatesPem(certificateChain, `${name}: certificateChain`)];
}

function bundleCertificates(text: string, name: string): readonly Certificate[] {
  const { vceks, authorities } = inFile(name, () => parseBundle(text));
  return [...vceks.map(({ certificate }) => certificate), ...authorities.flatMap(({ authorities: { intermediate, root } }) => [intermediate, root])];
}

function tableCertificates(bytes: Uint8Array, name: string): readonly Certificate[] {
  const certificates: Certificate[] = [];
  for (const { guid, data } of inFile(name, () => parseCertificateTable(bytes))) {
    const text = textOf(data);
    if (text?.includes("-----BEGIN CERTIFICATE-----") === true) certificates.push(...parseCertificatesPem(text, `${name}: entry ${guid}`));
    // Revocation lists and what providers add are DER too, so what is no certificate is left alone.
    else if (data[0] === 0x30) {
      try {
        certificates.push(parseCertificate(data, `${name}: entry ${guid}`));
      } catch (error) {
        if (!isSealpodError(error)) throw error;
      }
    }
  }
  return certificates;
}

/** The errors of these formats do not know which of the files they are about. */
function inFile<T>(name: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    throw new CliError("ERR_CLI_FILE", `${name}: ${cause.message}`, { cause, details: { code: cause.code } });
  }
}

function bareReport(form: string, report: Uint8Array): ReportInput {
  return { kind: "report", form, report: Uint8Array.from(report), certificates: [], endorsements: [], runtimeData: undefined, initTimeData: undefined };
}

function withForm(input: ReportInput | TokenInput, change: (form: string) => string): ReportInput | TokenInput {
  return { ...input, form: change(input.form) };
}

/** Text, if the bytes are text. Zero bytes are valid UTF-8, and nobody's text. */
function textOf(bytes: Uint8Array): string | undefined {
  if (bytes.includes(0)) return undefined;
  try {
    return decodeUtf8(bytes);
  } catch (error) {
    if (isSealpodError(error)) return undefined;
    throw error;
  }
}

function base64(text: string): Uint8Array | undefined {
  try {
    return text === "" ? undefined : fromAnyBase64(text);
  } catch (error) {
    if (isSealpodError(error)) return undefined;
    throw error;
  }
}

function unknownEvidence(name: string, found: string, hint?: string): CliError {
  return new CliError("ERR_CLI_FILE", `${name} is no attestation evidence that is recognised: found ${found}`, {
    hint: hint ?? "Expected a report (raw, hex, base64), an HCL blob, a SevSnpVm request, the sidecar's combined evidence, or an attestation token.",
  });
}
