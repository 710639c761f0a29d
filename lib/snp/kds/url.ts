import { toHex } from "@sealpod/core";
import { chipIdLength, type ProductName } from "../abi/product.ts";
import { formatTcbNumber, parseTcb } from "../abi/tcb.ts";

/** AMD's key distribution service. */
export const KDS_BASE = "https://kdsintf.amd.com";

/**
 * URL of the VCEK certificate (DER) of a chip at a TCB (AMD 57230 section 4.1).
 * @param chipId CHIP_ID of the report, 64 bytes
 * @param reportedTcb REPORTED_TCB of the report, 8 bytes: the VCEK is derived for that one, not for CURRENT_TCB
 */
export function vcekUrl(product: ProductName, chipId: Uint8Array, reportedTcb: Uint8Array, base: string = KDS_BASE): string {
  const tcb = parseTcb(reportedTcb, product);
  const fmc = tcb.fmc === undefined ? "" : `fmcSPL=${tcb.fmc}&`;
  const query = `${fmc}blSPL=${tcb.bootloader}&teeSPL=${tcb.tee}&snpSPL=${tcb.snp}&ucodeSPL=${tcb.microcode}`;
  return `${base}/vcek/v1/${product}/${toHex(chipId.subarray(0, chipIdLength(product)))}?${query}`;
}

/** URL of the PEM of intermediate and root. */
export function chainUrl(kind: "vcek" | "vlek", product: ProductName, base: string = KDS_BASE): string {
  return `${base}/${kind}/v1/${product}/cert_chain`;
}

/** Path and query of Azure's certificate cache; the TCB is a hex number, lower case, without leading zeros. */
export function azureCachePath(chipId: Uint8Array, reportedTcb: Uint8Array, clientId: string): string {
  const tcb = formatTcbNumber(reportedTcb).toLowerCase();
  return `/SevSnpVM/certificates/${toHex(chipId)}/${tcb}?api-version=2020-10-15-preview&clientId=${encodeURIComponent(clientId)}`;
}
