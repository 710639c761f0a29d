import { isZero } from "@sealpod/core";
import type { ProcessorId, Report } from "./report.ts";

/** Product lines with SEV-SNP, named as AMD's key distribution service names them. Bergamo and Siena are "Genoa" there. */
export type ProductName = "Milan" | "Genoa" | "Turin";

/** All of {@link ProductName}. */
export const PRODUCT_NAMES: readonly ProductName[] = ["Milan", "Genoa", "Turin"];

/** Ranges of combined family and model (AMD 57230, appendix; genuine reports of family 19h model A0h verify under Genoa's keys). */
const PROCESSORS: readonly { readonly family: number; readonly first: number; readonly last: number; readonly product: ProductName }[] = [
  { family: 0x19, first: 0x00, last: 0x0f, product: "Milan" },
  { family: 0x19, first: 0x10, last: 0x1f, product: "Genoa" },
  { family: 0x19, first: 0xa0, last: 0xaf, product: "Genoa" },
  { family: 0x1a, first: 0x00, last: 0x11, product: "Turin" },
];

/** The product of a processor id, or undefined if it is none that this package knows. */
export function productOfProcessor({ family, model }: ProcessorId): ProductName | undefined {
  return PROCESSORS.find((row) => row.family === family && row.first <= model && model <= row.last)?.product;
}

/**
 * What a report says about its product.
 * - `known`: version 3 and later carry the processor id.
 * - `unknown`: the processor id is none that this package knows.
 * - `unstated`: version 2 says nothing but the length of the chip id; the certificate decides among the candidates.
 */
export type ReportProduct =
  | { readonly kind: "known"; readonly product: ProductName }
  | { readonly kind: "unknown"; readonly processor: ProcessorId }
  | { readonly kind: "unstated"; readonly candidates: readonly ProductName[] };

/** The product that a report claims. */
export function productOfReport(report: Report): ReportProduct {
  if (report.processor === undefined) {
    const short = !isZero(report.chipId.subarray(0, 8)) && isZero(report.chipId.subarray(8));
    return { kind: "unstated", candidates: short ? ["Turin"] : ["Milan", "Genoa"] };
  }
  const product = productOfProcessor(report.processor);
  return product === undefined ? { kind: "unknown", processor: report.processor } : { kind: "known", product };
}

/** Significant bytes of CHIP_ID; the rest is zero. */
export function chipIdLength(product: ProductName): 8 | 64 {
  return product === "Turin" ? 8 : 64;
}
