import { messageOf } from "@sealpod/core";
import { type Certificate, DerReader, type Extension, encodeIa5String, encodeInteger } from "@sealpod/pki";
import type { ProductName } from "../abi/product.ts";
import { PRODUCT_NAMES } from "../abi/product.ts";
import { encodeTcb, parseTcb, type TcbVersion } from "../abi/tcb.ts";
import { SnpError } from "../errors.ts";

/** Types of AMD's certificate extensions (AMD 57230 section 3, "VCEK certificate definition"). */
export const AMD_OID = {
  structVersion: "1.3.6.1.4.1.3704.1.1",
  productName: "1.3.6.1.4.1.3704.1.2",
  blSpl: "1.3.6.1.4.1.3704.1.3.1",
  teeSpl: "1.3.6.1.4.1.3704.1.3.2",
  snpSpl: "1.3.6.1.4.1.3704.1.3.3",
  spl4: "1.3.6.1.4.1.3704.1.3.4",
  spl5: "1.3.6.1.4.1.3704.1.3.5",
  spl6: "1.3.6.1.4.1.3704.1.3.6",
  spl7: "1.3.6.1.4.1.3704.1.3.7",
  ucodeSpl: "1.3.6.1.4.1.3704.1.3.8",
  fmcSpl: "1.3.6.1.4.1.3704.1.3.9",
  hwId: "1.3.6.1.4.1.3704.1.4",
  cspId: "1.3.6.1.4.1.3704.1.5",
} as const;

/** End of a product name: the stepping of the chip, a letter and its revision (AMD 57230 section 3, "productName"). AMD writes it for Milan, and no more for Genoa and Turin. */
const STEPPING = /-[A-Z][0-9]{1,2}$/;

/** What AMD certifies about a report signing key. */
export interface EndorsementKey {
  /** A VCEK belongs to one chip, a VLEK to a cloud provider. */
  readonly kind: "vcek" | "vlek";
  readonly product: ProductName;
  /** The certificate's own text, such as "Milan-B0". */
  readonly productName: string;
  /** The TCB that the key was derived for. */
  readonly tcb: TcbVersion;
  /** {@link tcb} as the 8 bytes of a report. */
  readonly tcbBytes: Uint8Array;
  /** Of a VCEK: 64 bytes, 8 on Turin. */
  readonly hwId: Uint8Array | undefined;
  /** Of a VLEK: the provider, such as "CN=cc-us-east-2.amazonaws.com". */
  readonly cspId: string | undefined;
}

/**
 * Reads AMD's extensions of a VCEK or VLEK certificate.
 * @throws {SnpError} ERR_SNP_CERTIFICATE, ERR_SNP_PRODUCT
 */
export function parseEndorsementKey(certificate: Certificate): EndorsementKey {
  const productName = read(certificate, "productName", (reader) => reader.string());
  const hwId = certificate.extensions.get(AMD_OID.hwId);
  const cspId = certificate.extensions.has(AMD_OID.cspId) ? read(certificate, "cspId", (reader) => reader.string()) : undefined;
  if ((hwId === undefined) === (cspId === undefined)) {
    throw new SnpError("ERR_SNP_CERTIFICATE", "endorsement key: expected either a hardware id (VCEK) or a provider id (VLEK), and not both");
  }
  // A chip has a stepping and its certificate may name it; a provider has none.
  const line = hwId === undefined ? productName : productName.replace(STEPPING, "");
  const product = PRODUCT_NAMES.find((name) => name === line);
  if (product === undefined)
    throw new SnpError(
      "ERR_SNP_PRODUCT",
      `endorsement key: product name ${JSON.stringify(productName.slice(0, 40))} is not one of ${PRODUCT_NAMES.join(", ")}${hwId === undefined ? "" : ", or one with its stepping such as Milan-B0"}`,
    );
  const turin = product === "Turin";
  const structVersion = level(certificate, "structVersion");
  if (structVersion !== (turin ? 1 : 0))
    throw new SnpError("ERR_SNP_CERTIFICATE", `endorsement key: structure version ${structVersion} does not belong to ${product}`);
  const absent = turin ? "spl4" : "fmcSpl";
  if (certificate.extensions.has(AMD_OID[absent]))
    throw new SnpError("ERR_SNP_CERTIFICATE", `endorsement key: extension ${AMD_OID[absent]} (${absent}) does not belong to ${product}`);
  const tcb: TcbVersion = {
    fmc: turin ? level(certificate, "fmcSpl") : undefined,
    bootloader: level(certificate, "blSpl"),
    tee: level(certificate, "teeSpl"),
    snp: level(certificate, "snpSpl"),
    microcode: level(certificate, "ucodeSpl"),
    reserved: [...(turin ? [] : [level(certificate, "spl4")]), level(certificate, "spl5"), level(certificate, "spl6"), level(certificate, "spl7")],
  };
  return {
    kind: hwId === undefined ? "vlek" : "vcek",
    product,
    productName,
    tcb,
    tcbBytes: encodeTcb(tcb, product),
    hwId: hwId === undefined ? undefined : parseHwId(hwId.value, turin ? 8 : 64),
    cspId,
  };
}

/** AMD's extensions of a VCEK, as the emulated security processor and tests put them into a certificate. */
export function encodeVcekExtensions(input: {
  readonly productName: string;
  readonly product: ProductName;
  /** 8 bytes. */
  readonly tcb: Uint8Array;
  /** 64 bytes, 8 on Turin. */
  readonly hwId: Uint8Array;
}): readonly Extension[] {
  const tcb = parseTcb(input.tcb, input.product);
  const turin = input.product === "Turin";
  const [first = 0, second = 0, third = 0, fourth = 0] = tcb.reserved;
  const levels: readonly (readonly [string, number])[] = [
    ...(turin ? ([[AMD_OID.fmcSpl, tcb.fmc ?? 0]] as const) : []),
    [AMD_OID.blSpl, tcb.bootloader],
    [AMD_OID.teeSpl, tcb.tee],
    [AMD_OID.snpSpl, tcb.snp],
    ...(turin
      ? ([
          [AMD_OID.spl5, first],
          [AMD_OID.spl6, second],
          [AMD_OID.spl7, third],
        ] as const)
      : ([
          [AMD_OID.spl4, first],
          [AMD_OID.spl5, second],
          [AMD_OID.spl6, third],
          [AMD_OID.spl7, fourth],
        ] as const)),
    [AMD_OID.ucodeSpl, tcb.microcode],
  ];
  return [
    { oid: AMD_OID.structVersion, critical: false, value: encodeInteger(turin ? 1 : 0) },
    { oid: AMD_OID.productName, critical: false, value: encodeIa5String(input.productName) },
    ...levels.map(([oid, value]) => ({ oid, critical: false, value: encodeInteger(value) })),
    { oid: AMD_OID.hwId, critical: false, value: input.hwId },
  ];
}

/**
 * The hardware id: raw bytes as AMD writes it, or wrapped in an OCTET STRING. Only the total length decides: a raw id may itself begin with 02 or 04,
 * and readers that sniffed the first byte refused genuine chips.
 */
function parseHwId(value: Uint8Array, length: 8 | 64): Uint8Array {
  if (value.length === length) return value;
  if (value.length === length + 2 && value[0] === 0x04 && value[1] === length) return value.subarray(2);
  throw new SnpError("ERR_SNP_CERTIFICATE", `endorsement key: a hardware id of ${value.length} bytes, expected ${length}`, {
    details: { found: value.length, expected: length },
  });
}

/** A level is an INTEGER: above 127 it takes two bytes (02 02 00 DB), which readers that took byte [2] read as 0. */
function level(certificate: Certificate, field: keyof typeof AMD_OID): number {
  return read(certificate, field, (reader) => reader.smallInteger(255));
}

function read<T>(certificate: Certificate, field: keyof typeof AMD_OID, parse: (reader: DerReader) => T): T {
  const oid = AMD_OID[field];
  const extension = certificate.extensions.get(oid);
  if (extension === undefined) throw new SnpError("ERR_SNP_CERTIFICATE", `endorsement key: extension ${oid} (${field}) is missing`, { details: { oid } });
  try {
    const reader = new DerReader(extension.value, `extension ${field}`);
    const value = parse(reader);
    reader.end();
    return value;
  } catch (cause) {
    throw new SnpError("ERR_SNP_CERTIFICATE", `endorsement key: ${messageOf(cause)}`, { cause, details: { oid } });
  }
}
