import { equalBytes, isZero, toHex } from "@sealpod/core";
import type { Certificate } from "@sealpod/pki";
import { chipIdLength, productOfReport, type ProductName } from "../abi/product.ts";
import type { Report } from "../abi/report.ts";
import { formatTcb, parseTcb } from "../abi/tcb.ts";
import { SnpError } from "../errors.ts";
import { type EndorsementKey, parseEndorsementKey } from "./endorsement-key.ts";

/** Names the VCEK certificate that a report needs. */
export interface EndorsementRequest {
  /** At least one, tried in this order; several only if the report does not say (version 2). Turin stands alone: its TCB is laid out in another way. */
  readonly products: readonly ProductName[];
  /** CHIP_ID of the report, 64 bytes; from Turin on 8 and zeros. */
  readonly chipId: Uint8Array;
  /** REPORTED_TCB of the report, 8 bytes. */
  readonly reportedTcb: Uint8Array;
}

/**
 * The request for the certificate of a report's key. Version 2 says nothing of its product: Milan made nearly all such reports, Genoa the others.
 * @throws {SnpError} ERR_SNP_KDS_REQUEST if there is nothing that a service could be asked for
 */
export function endorsementRequestOf(report: Report): EndorsementRequest {
  const { signingKey } = report.keyInfo;
  if (signingKey !== "vcek") {
    throw new SnpError(
      "ERR_SNP_KDS_REQUEST",
      signingKey === "vlek" ? "the report is signed by a VLEK, whose certificate no public service has" : "the report is not signed (SIGNING_KEY 7)",
      signingKey === "vlek" ? { hint: "Take the VLEK certificate that the cloud provider's host sends with the report (auxblob of configfs-tsm)." } : {},
    );
  }
  const claimed = productOfReport(report);
  if (claimed.kind === "unknown") {
    const { family, model } = claimed.processor;
    throw new SnpError("ERR_SNP_KDS_REQUEST", `the report's processor, family 0x${family.toString(16)} model 0x${model.toString(16)}, is not a known product`);
  }
  const request: EndorsementRequest = {
    products: claimed.kind === "known" ? [claimed.product] : claimed.candidates,
    chipId: report.chipId,
    reportedTcb: report.reportedTcb,
  };
  checkRequest(request);
  return request;
}

/**
 * Refuses requests that no service can be asked.
 * @throws {SnpError} ERR_SNP_KDS_REQUEST
 */
export function checkRequest({ products, chipId, reportedTcb }: EndorsementRequest): void {
  const fail = (problem: string, hint?: string): never => {
    throw new SnpError("ERR_SNP_KDS_REQUEST", `certificate request: ${problem}`, hint === undefined ? {} : { hint });
  };
  const [product] = products;
  if (product === undefined) return fail("no product is named");
  if (products.length > 1 && products.includes("Turin")) return fail(`products ${products.join(", ")}: the TCB of Turin has another layout`);
  if (chipId.length !== 64) return fail(`a chip id of ${chipId.length} bytes, expected 64`);
  if (reportedTcb.length !== 8) return fail(`a TCB of ${reportedTcb.length} bytes, expected 8`);
  if (isZero(chipId))
    return fail(
      "the chip id is all zero: the host masks it (MASK_CHIP_ID)",
      "Take the certificates that the host sends with the report, or unmask the chip id.",
    );
  if (!isZero(chipId.subarray(chipIdLength(product)))) return fail(`the chip id has more than the ${chipIdLength(product)} bytes of ${product}`);
  // A VCEK is asked for by its named levels alone, and cached under them.
  if (parseTcb(reportedTcb, product).reserved.some((value) => value !== 0)) return fail(`TCB ${toHex(reportedTcb)} has levels that ${product} does not have`);
}

/**
 * Products that a chip may be of, going by its id alone: only Turin's ids are short. For services that are not told the product.
 * @param chipId 64 bytes
 */
export function productsOfChip(chipId: Uint8Array): readonly ProductName[] {
  return isZero(chipId.subarray(chipIdLength("Turin"))) ? ["Turin"] : ["Milan", "Genoa"];
}

/** Text for messages: chip, TCB and products of a request. */
export function describeRequest({ products, chipId, reportedTcb }: EndorsementRequest): string {
  const [product = "Milan"] = products;
  return `chip ${toHex(chipId.subarray(0, 8))}… at ${formatTcb(parseTcb(reportedTcb, product))} (${products.join(" or ")})`;
}

/**
 * What a certificate says of its key, if it is the VCEK certificate that was asked for: product, chip and TCB of its extensions are compared. Its signature is not looked at.
 * @param source who gave the certificate, for messages
 * @throws {SnpError} ERR_SNP_KDS_RESPONSE
 */
export function checkEndorsement(certificate: Certificate, request: EndorsementRequest, source: string): EndorsementKey {
  const fail = (problem: string, cause?: unknown): SnpError =>
    new SnpError("ERR_SNP_KDS_RESPONSE", `${source}: asked for ${describeRequest(request)}, got ${problem}`, {
      ...(cause === undefined ? {} : { cause }),
      details: { source },
    });
  let key: EndorsementKey;
  try {
    key = parseEndorsementKey(certificate);
  } catch (cause) {
    if (cause instanceof SnpError) throw fail(`a certificate that is no VCEK's (${cause.message})`, cause);
    throw cause;
  }
  const { hwId, product } = key;
  if (hwId === undefined) throw fail("a VLEK certificate");
  if (!request.products.includes(product)) throw fail(`a certificate for ${product}`);
  if (!equalBytes(hwId, request.chipId.subarray(0, chipIdLength(product)))) throw fail(`a certificate for chip ${toHex(hwId.subarray(0, 8))}…`);
  if (!equalBytes(key.tcbBytes, request.reportedTcb)) throw fail(`a certificate for ${formatTcb(key.tcb)}`);
  return key;
}
