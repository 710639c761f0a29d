import { asObject, fromBase64, messageOf, decodeUtf8, parseJson } from "@sealpod/core";
import { SnpError } from "../errors.ts";

/** The document of Azure's trusted hardware identity service, also the `host-amd-cert-base64` file of a security context. */
export interface ThimCertificates {
  /** PEM of the VCEK. */
  readonly vcekCert: string;
  /** REPORTED_TCB that the VCEK is for, as an upper-case hex number. */
  readonly tcbm: string;
  /** PEM of ASK, then ARK. */
  readonly certificateChain: string;
  /** Seconds to keep the document, as text. */
  readonly cacheControl: string;
}

/** Largest document: three certificates take below 8 KiB. */
const MAX_THIM_LENGTH = 64 * 1024;

/**
 * Reads a THIM document. Names that it does not have are ignored: the service adds some.
 * @throws {SnpError} ERR_SNP_CACHE
 */
export function parseThim(text: string): ThimCertificates {
  let document: ReturnType<typeof asObject>;
  try {
    document = asObject(parseJson(text, "THIM document", { maxLength: MAX_THIM_LENGTH, maxDepth: 4 }));
  } catch (cause) {
    throw new SnpError("ERR_SNP_CACHE", messageOf(cause), { cause });
  }
  const field = (name: string): string => {
    const value = document?.[name];
    if (typeof value !== "string") throw new SnpError("ERR_SNP_CACHE", `THIM document: ${name} is not a string`);
    return value;
  };
  const tcbm = field("tcbm");
  if (!/^[0-9a-fA-F]{1,16}$/.test(tcbm)) throw new SnpError("ERR_SNP_CACHE", "THIM document: tcbm is not a hex number of up to 16 digits");
  return { vcekCert: field("vcekCert"), tcbm: tcbm.toUpperCase(), certificateChain: field("certificateChain"), cacheControl: field("cacheControl") };
}

/**
 * Reads the `host-amd-cert-base64` file.
 * @throws {SnpError} ERR_SNP_CACHE
 */
export function parseThimBase64(text: string): ThimCertificates {
  if (text.length > MAX_THIM_LENGTH * 2) throw new SnpError("ERR_SNP_CACHE", `THIM document: ${text.length} characters of base64`);
  try {
    return parseThim(decodeUtf8(fromBase64(text.trim(), "THIM document"), "THIM document"));
  } catch (cause) {
    if (cause instanceof SnpError) throw cause;
    throw new SnpError("ERR_SNP_CACHE", messageOf(cause), { cause });
  }
}

/** JSON text of a THIM document. */
export function encodeThim(document: ThimCertificates): string {
  const { vcekCert, tcbm, certificateChain, cacheControl } = document;
  return JSON.stringify({ vcekCert, tcbm, certificateChain, cacheControl });
}
