import type { IdAuth, IdBlock } from "../abi/id-block.ts";
import { SnpError } from "../errors.ts";
import type { SourcedPage } from "./explain.ts";
import type { IgvmDirective, IgvmFile, IgvmPageData, IgvmPlatform } from "./igvm.ts";
import { PAGE_SIZE } from "./launch-digest.ts";

/**
 * The pages that a host launches from an IGVM file on SEV-SNP, in the order of the file: page data, parameter areas (unmeasured, the host fills them), VP contexts.
 * Shared pages are no part of the guest.
 * @throws {SnpError} ERR_SNP_IGVM if the file is not for SEV-SNP, or launches two pages at one address
 */
export function igvmLaunchPages(file: IgvmFile): Iterable<SourcedPage> {
  const { mask } = snpPlatform(file);
  const directives = file.directives.filter((item) => (item.mask & mask) !== 0 && !(item.kind === "page-data" && item.shared));
  checkAddresses(directives);
  return (function* (): Generator<SourcedPage> {
    for (const directive of directives) yield* directivePages(directive);
  })();
}

/**
 * What the file itself says about its launch on SEV-SNP: the POLICY to launch with, and the ID block and its signatures.
 * The measurement in the ID block is a claim: compare it with that of {@link igvmLaunchPages}.
 * @throws {SnpError} ERR_SNP_IGVM if the file is not for SEV-SNP, or has an ID block and no policy
 */
export function igvmIdentity(file: IgvmFile): {
  readonly policy: bigint | undefined;
  readonly idBlock: { readonly block: IdBlock; readonly auth: IdAuth } | undefined;
} {
  const { mask } = snpPlatform(file);
  const policy = file.policies.find((item) => (item.mask & mask) !== 0)?.policy;
  const first = file.idBlocks.find((item) => (item.mask & mask) !== 0);
  if (first === undefined) return { policy, idBlock: undefined };
  if (policy === undefined) throw new SnpError("ERR_SNP_IGVM", "IGVM file: it has an ID block and no guest policy, which the ID block's signature covers");
  return { policy, idBlock: { block: { ...first.block, policy }, auth: first.auth } };
}

function snpPlatform(file: IgvmFile): IgvmPlatform {
  const platforms = file.platforms.filter(({ kind }) => kind === "sev-snp");
  const [platform] = platforms;
  if (platform === undefined || platforms.length > 1) {
    throw new SnpError(
      "ERR_SNP_IGVM",
      `IGVM file: ${platforms.length} platforms are SEV-SNP, expected one; found: ${file.platforms.map(({ kind }) => kind).join(", ")}`,
    );
  }
  return platform;
}

/** Two pages at one address would let the content that was measured first be replaced. The VMSAs have no place in the guest's memory. */
function checkAddresses(directives: readonly IgvmDirective[]): void {
  const seen = new Set<bigint>();
  for (const directive of directives) {
    if (directive.kind === "vp-context") continue;
    const size = directive.kind === "parameter-insert" ? directive.size : PAGE_SIZE;
    for (let at = 0; at < size; at += PAGE_SIZE) {
      const gpa = directive.gpa + BigInt(at);
      if (seen.has(gpa)) throw new SnpError("ERR_SNP_IGVM", `IGVM file: two pages at address 0x${gpa.toString(16)}`);
      seen.add(gpa);
    }
  }
}

function* directivePages(directive: IgvmDirective): Generator<SourcedPage> {
  switch (directive.kind) {
    case "page-data":
      yield pageDataPage(directive);
      break;
    case "parameter-insert":
      for (let at = 0; at < directive.size; at += PAGE_SIZE) {
        yield { kind: "unmeasured", gpa: directive.gpa + BigInt(at), source: { name: `parameter area ${directive.area}` } };
      }
      break;
    case "vp-context":
      yield {
        kind: "vmsa",
        gpa: directive.gpa,
        contents: directive.contents,
        source: { name: `VP context ${directive.index}`, file: "igvm", offset: directive.offset },
      };
      break;
  }
}

function pageDataPage(page: IgvmPageData): SourcedPage {
  const { gpa, contents, offset } = page;
  const name = page.dataType === "normal" ? "page data" : `page data (${page.dataType})`;
  const source = offset === undefined ? { name: page.dataType === "normal" ? "page data (zeros)" : name } : { name, file: "igvm", offset };
  if (page.unmeasured) return { kind: "unmeasured", gpa, source };
  if (page.dataType !== "normal") return { kind: page.dataType, gpa, source };
  // A page without content is a page of zeros that is measured as any other.
  return { kind: "normal", gpa, contents: contents ?? ZEROS, source };
}

const ZEROS = new Uint8Array(PAGE_SIZE);
