import { fromHex, toHex } from "@sealpod/core";
import { chipIdLength, PRODUCT_NAMES, type ProductName } from "../abi/product.ts";
import { encodeTcb, formatTcbNumber, parseTcb } from "../abi/tcb.ts";
import { SnpError } from "../errors.ts";

/** AMD's key distribution service. */
export const KDS_BASE = "https://kdsintf.amd.com";

/** Where a machine of Azure asks for the certificates of its own processor: link-local, plain HTTP. */
export const THIM_URL = "http://169.254.169.254/metadata/THIM/amd/certification";

/** Path of {@link THIM_URL}. */
export const THIM_PATH = "/metadata/THIM/amd/certification";

/** Hierarchies of AMD's keys: the chip's own (VCEK, under ASK) and the cloud provider's (VLEK, under ASVK). Both end in the product's ARK. */
export type EndorsementKind = "vcek" | "vlek";

/** All of {@link EndorsementKind}. */
export const ENDORSEMENT_KINDS: readonly EndorsementKind[] = ["vcek", "vlek"];

/** Longest path with query that is read: a VCEK's has 220 characters, Azure's about 240 with a client id. */
export const MAX_ENDORSEMENT_PATH = 512;

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
export function chainUrl(kind: EndorsementKind, product: ProductName, base: string = KDS_BASE): string {
  return `${base}/${kind}/v1/${product}/cert_chain`;
}

/** URL of the revocation list (DER) of the root, for the intermediates of a hierarchy. */
export function crlUrl(kind: EndorsementKind, product: ProductName, base: string = KDS_BASE): string {
  return `${base}/${kind}/v1/${product}/crl`;
}

/** What {@link azureCachePath} takes apart from the certificate's names; services other than Azure's own may want others. */
export interface AzureCacheNames {
  /** First segment of the path, letters and digits; "SevSnpVM" if left out. */
  readonly teeType?: string;
  /** The `api-version`, bare or with its name ("api-version=2020-10-15-preview"), as the configuration of Azure's sidecars has it. */
  readonly apiVersion?: string;
}

/**
 * Path and query of Azure's certificate cache; the TCB is a hex number, lower case, without leading zeros.
 * @param clientId bare or with its name ("clientId=me"); an id that itself begins so cannot be told from that
 * @throws {SnpError} ERR_SNP_KDS_PATH if a name could not be part of such a path
 */
export function azureCachePath(chipId: Uint8Array, reportedTcb: Uint8Array, clientId: string, names: AzureCacheNames = {}): string {
  const what = "Azure cache path";
  const { teeType = "SevSnpVM" } = names;
  const apiVersion = (names.apiVersion ?? AZURE_CACHE_VERSION).replace(/^api-version=/, "");
  if (!/^[A-Za-z0-9]{1,40}$/.test(teeType)) throw pathError(what, `tee type ${quote(teeType)} is not a word of letters and digits`, "path");
  if (!/^[A-Za-z0-9.-]{1,40}$/.test(apiVersion))
    throw pathError(what, `api-version ${quote(apiVersion)}, expected one such as ${AZURE_CACHE_VERSION}`, "query");
  const tcb = formatTcbNumber(reportedTcb).toLowerCase();
  const client = encodeURIComponent(clientId.replace(/^clientId=/, ""));
  return `/${teeType}/certificates/${toHex(chipId)}/${tcb}?api-version=${apiVersion}&clientId=${client}`;
}

/** The version of Azure's cache that its sidecars ask for. */
const AZURE_CACHE_VERSION = "2020-10-15-preview";

/** What a path of AMD's service names. */
export type KdsPath =
  | {
      readonly kind: "vcek";
      readonly product: ProductName;
      /** 64 bytes, as in a report: Turin's 8 are followed by zeros. */
      readonly chipId: Uint8Array;
      /** 8 bytes. */
      readonly tcb: Uint8Array;
    }
  | { readonly kind: "cert_chain" | "crl"; readonly endorsement: EndorsementKind; readonly product: ProductName };

/** Parameters of a VCEK's query. */
const SPL_PARAMETERS = ["fmcSPL", "blSPL", "teeSPL", "snpSPL", "ucodeSPL"] as const;

/**
 * Reads path and query of a request to AMD's service, the inverse of {@link vcekUrl}, {@link chainUrl} and {@link crlUrl}. Levels may stand in any order and be padded with zeros
 * (snpguest and Trustee write two digits); one that is missing, twice, unknown or above 255 is refused, because the certificate would be for another TCB than was meant.
 * @param path from its first `/`, no origin, up to {@link MAX_ENDORSEMENT_PATH} characters
 * @throws {SnpError} ERR_SNP_KDS_PATH; `details.field` is `hwid` where the id's length does not fit the product
 */
export function parseKdsPath(path: string): KdsPath {
  const { segments, query } = split(path, "KDS path");
  const [endorsement, version, name, last, ...rest] = segments;
  if ((endorsement !== "vcek" && endorsement !== "vlek") || version !== "v1" || last === undefined || rest.length > 0)
    throw pathError("KDS path", "expected /vcek/v1/PRODUCT/… or /vlek/v1/PRODUCT/…", "path");
  const product = PRODUCT_NAMES.find((item) => item === name);
  if (product === undefined) throw pathError("KDS path", `product ${quote(name ?? "")}, expected one of ${PRODUCT_NAMES.join(", ")}`, "product");
  if (last === "cert_chain" || last === "crl") {
    if (query !== "") throw pathError("KDS path", `${last} has no parameters, found ${quote(query)}`, "query");
    return { kind: last, endorsement, product };
  }
  if (endorsement === "vlek") throw pathError("KDS path", "/vlek has cert_chain and crl alone: VLEK certificates are handed to cloud providers", "path");
  const digits = chipIdLength(product) * 2;
  if (!/^[0-9a-fA-F]+$/.test(last)) throw pathError("KDS path", `chip id ${quote(last)} is not hex`, "path");
  if (last.length !== digits) throw pathError("KDS path", `a chip id of ${last.length} hex digits; ${product} has ${digits}`, "hwid");
  const chipId = new Uint8Array(64);
  chipId.set(fromHex(last));
  return { kind: "vcek", product, chipId, tcb: parseLevels(query, product) };
}

/** What a path of Azure's cache names. */
export interface AzureCachePath {
  /** 64 bytes. */
  readonly chipId: Uint8Array;
  /** 8 bytes; how they are laid out is not said, as the product is not. */
  readonly tcb: Uint8Array;
  readonly clientId: string | undefined;
}

/**
 * Reads path and query of a request to Azure's cache, the inverse of {@link azureCachePath}. Either case of hex, and leading zeros of the TCB, are read.
 * @param path from its first `/`, no origin, up to {@link MAX_ENDORSEMENT_PATH} characters
 * @throws {SnpError} ERR_SNP_KDS_PATH
 */
export function parseAzureCachePath(path: string): AzureCachePath {
  const what = "Azure cache path";
  const { segments, query } = split(path, what);
  const [tee, certificates, chip = "", tcb = "", ...rest] = segments;
  if (tee !== "SevSnpVM" || certificates !== "certificates" || rest.length > 0) throw pathError(what, "expected /SevSnpVM/certificates/CHIP/TCB", "path");
  if (!/^[0-9a-fA-F]{128}$/.test(chip)) throw pathError(what, `chip id ${quote(chip)} is not 128 hex digits`, "path");
  const parameters = parameterMap(query, what);
  for (const [name, value] of parameters) {
    if (name === "api-version" && /^[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?$/.test(value)) continue;
    if (name === "clientId" && value.length <= 128) continue;
    throw pathError(what, `parameter ${quote(`${name}=${value}`)}, expected api-version=2020-10-15-preview and clientId=NAME`, "query");
  }
  if (!parameters.has("api-version")) throw pathError(what, "parameter api-version is missing", "query");
  return { chipId: fromHex(chip), tcb: parseTcbNumber(tcb, what), clientId: parameters.get("clientId") };
}

/**
 * The 8 bytes of a TCB_VERSION written as a hex number, the inverse of `formatTcbNumber`: either case, leading zeros or none.
 * @param what name of the text, for messages
 * @throws {SnpError} ERR_SNP_KDS_PATH
 */
export function parseTcbNumber(text: string, what = "TCB"): Uint8Array {
  if (!/^[0-9a-fA-F]{1,16}$/.test(text)) throw pathError(what, `TCB ${quote(text)} is not a hex number of up to 16 digits`, "path");
  return fromHex(text.padStart(16, "0")).reverse();
}

function parseLevels(query: string, product: ProductName): Uint8Array {
  const parameters = parameterMap(query, "KDS path");
  const wanted = SPL_PARAMETERS.filter((name) => name !== "fmcSPL" || product === "Turin");
  const surplus = [...parameters.keys()].find((name) => !(wanted as readonly string[]).includes(name));
  if (surplus !== undefined) throw pathError("KDS path", `parameter ${quote(surplus)}; ${product} has ${wanted.join(", ")}`, "query");
  const level = (name: (typeof SPL_PARAMETERS)[number]): number => {
    const text = parameters.get(name);
    if (text === undefined) throw pathError("KDS path", `parameter ${name} is missing; ${product} has ${wanted.join(", ")}`, "query");
    if (!/^[0-9]{1,3}$/.test(text) || Number(text) > 255) throw pathError("KDS path", `${name}=${quote(text)} is not a decimal number of 0 to 255`, "query");
    return Number(text);
  };
  const turin = product === "Turin";
  return encodeTcb(
    {
      fmc: turin ? level("fmcSPL") : undefined,
      bootloader: level("blSPL"),
      tee: level("teeSPL"),
      snp: level("snpSPL"),
      microcode: level("ucodeSPL"),
      reserved: turin ? [0, 0, 0] : [0, 0, 0, 0],
    },
    product,
  );
}

/** Splits without decoding: nothing in these paths needs an escape, so `%2e%2e` is what it looks like, an attempt to be read as something else. */
function split(path: string, what: string): { readonly segments: readonly string[]; readonly query: string } {
  if (path.length > MAX_ENDORSEMENT_PATH) throw pathError(what, `${path.length} characters, more than the limit of ${MAX_ENDORSEMENT_PATH}`, "path");
  const at = path.indexOf("?");
  const [lead, ...segments] = (at === -1 ? path : path.slice(0, at)).split("/");
  if (lead !== "") throw pathError(what, `${quote(path)} does not begin with /`, "path");
  return { segments, query: at === -1 ? "" : path.slice(at + 1) };
}

/** Name and value of each parameter; a name twice is refused, as two readers would take different ones. */
function parameterMap(query: string, what: string): ReadonlyMap<string, string> {
  const parameters = new Map<string, string>();
  if (query === "") return parameters;
  for (const item of query.split("&")) {
    const at = item.indexOf("=");
    if (at < 1) throw pathError(what, `parameter ${quote(item)} is not NAME=VALUE`, "query");
    const name = decode(item.slice(0, at), what);
    if (parameters.has(name)) throw pathError(what, `parameter ${quote(name)} stands twice`, "query");
    parameters.set(name, decode(item.slice(at + 1), what));
  }
  return parameters;
}

function decode(text: string, what: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new SnpError("ERR_SNP_KDS_PATH", `${what}: ${quote(text)} is not percent-encoded UTF-8`, { cause, details: { field: "query" } });
  }
}

/** Text of a stranger, short and without control characters, for a message. */
function quote(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text);
}

function pathError(what: string, problem: string, field: "path" | "product" | "hwid" | "query"): SnpError {
  return new SnpError("ERR_SNP_KDS_PATH", `${what}: ${problem}`, { details: { field } });
}
