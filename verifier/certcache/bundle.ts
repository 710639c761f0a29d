import { basename, dirname, join } from "node:path";
import {
  asArray,
  asObject,
  encodeUtf8,
  fromBase64,
  isSealpodError,
  type JsonObject,
  type JsonValue,
  messageOf,
  parseJson,
  sha256,
  toBase64,
  toHex,
} from "@sealpod/core";
import { type Crl, parseCertificate, parseCertificatesPem, parseCrl, verifyCrl } from "@sealpod/pki";
import {
  type Authorities,
  chainUrl,
  checkAuthorities,
  ENDORSEMENT_KINDS,
  type EndorsementKind,
  MAX_CERTIFICATES_BYTES,
  MAX_KDS_CRL_BYTES,
  PRODUCT_NAMES,
  type ProductName,
} from "@sealpod/snp";
import { isTemporary, listDirectory, readSmallFile } from "./atomic-file.ts";
import { isNewer } from "./cache.ts";
import { CertcacheError } from "./errors.ts";
import {
  DEFAULT_MAX_ENTRIES,
  type EndorsementStore,
  isNamed,
  listEntries,
  parsePairs,
  readVcek,
  requestOf,
  type StoredEndorsement,
  vcekKeyOf,
} from "./store.ts";
import { MAX_PAIRS, orderedPairs, type Trust, trusted, underAny, verifyAuthorities, verifyEndorsement } from "./trust.ts";

/** Certificates to carry to a cache without a network. Nothing about them was verified. */
export interface Bundle {
  /** Several of a kind and product if AMD issued an ASK again: certificates under the old one stay valid. */
  readonly authorities: readonly { readonly kind: EndorsementKind; readonly product: ProductName; readonly authorities: Authorities }[];
  readonly crls: readonly { readonly kind: EndorsementKind; readonly product: ProductName; readonly crl: Crl }[];
  readonly vceks: readonly StoredEndorsement[];
}

/** A directory's {@link Bundle}, and what in the directory is none of it. */
export interface DirectoryBundle extends Bundle {
  readonly ignored: {
    /** Files and directories in no known layout, what is below such a directory not counted. */
    readonly count: number;
    /** Paths of the first {@link MAX_IGNORED_NAMES} of them, relative to the directory; "?" for control characters. */
    readonly names: readonly string[];
  };
}

/** What an import did. */
export interface ImportResult {
  /** VCEK certificates that are new here. */
  readonly vceks: number;
  /** VCEK certificates that were here already. */
  readonly known: number;
  readonly authorities: number;
  readonly crls: number;
  /** Revocation lists that were left out because their time is over, or because a newer one is here. */
  readonly oldCrls: number;
}

/** Most names of files that an import ignored: enough to see what kind of directory it is. */
export const MAX_IGNORED_NAMES = 5;

/** Largest bundle, in characters: 65 536 certificates of 1.4 KiB in base64, and room. */
export const MAX_BUNDLE_LENGTH: number = 192 * 1024 * 1024;

const KIND = "sealpod-certcache-bundle";
const VERSION = 1;

/**
 * The bundle file: one JSON document, one entry per line, sorted. The same certificates give the same bytes, whenever and wherever it is written.
 */
export function encodeBundle(bundle: Bundle): string {
  const lines = (items: readonly Record<string, string>[]): string => {
    const texts = items.map((item) => JSON.stringify(item)).sort();
    return texts.length === 0 ? "[]" : `[\n${texts.join(",\n")}\n]`;
  };
  const authorities = bundle.authorities.map(({ kind, product, authorities: { intermediate, root } }) => ({
    kind,
    product,
    intermediate: toBase64(intermediate.der),
    root: toBase64(root.der),
  }));
  const crls = bundle.crls.map(({ kind, product, crl }) => ({ kind, product, der: toBase64(crl.der) }));
  const vceks = bundle.vceks.map(({ key, certificate }) => ({
    product: key.product,
    hwId: toHex(key.hwId ?? new Uint8Array()),
    tcb: toHex(key.tcbBytes),
    der: toBase64(certificate.der),
  }));
  return `{"kind":${JSON.stringify(KIND)},"version":${VERSION},\n"authorities":${lines(authorities)},\n"crls":${lines(crls)},\n"vceks":${lines(vceks)}}\n`;
}

/**
 * Reads a bundle file: every name known, every certificate whole and what its entry says, none twice. Nothing is verified.
 * @param maxEntries most VCEK certificates
 * @param name for messages, such as the name of the file
 * @throws {CertcacheError} ERR_CERTCACHE_BUNDLE
 */
export function parseBundle(text: string, maxEntries: number = DEFAULT_MAX_ENTRIES, name: string = "bundle"): Bundle {
  try {
    return readBundle(parseJson(text, name, { maxLength: MAX_BUNDLE_LENGTH, maxDepth: 4 }), maxEntries);
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    // The reader of JSON names it already, with line and column.
    const message = cause.message.startsWith(`${name}:`) ? cause.message : `${name}: ${cause.message}`;
    throw new CertcacheError("ERR_CERTCACHE_BUNDLE", message, {
      cause,
      hint: cause.hint ?? "Expected a bundle as `sealpod certcache export` writes it, or a directory in the layout of Trustee's offline store.",
    });
  }
}

function readBundle(json: JsonValue, maxEntries: number): Bundle {
  const document = record(json, "the document", ["kind", "version", "authorities", "crls", "vceks"]);
  if (document["kind"] !== KIND) throw bad(`kind is ${show(document["kind"])}, expected ${KIND}`);
  if (document["version"] !== VERSION) throw bad(`version is ${show(document["version"])}, expected ${VERSION}`);
  const once = onlyOnce();
  const authorities = list(document["authorities"], "authorities", ENDORSEMENT_KINDS.length * PRODUCT_NAMES.length * MAX_PAIRS).map((item, index) => {
    const where = `authorities[${index}]`;
    const entry = record(item, where, ["kind", "product", "intermediate", "root"]);
    const { kind, product } = kindAndProduct(entry, where);
    const certificates = [parseCertificate(der(entry["intermediate"], where), where), parseCertificate(der(entry["root"], where), where)];
    once(`authorities ${kind} ${product} ${certificates.map((certificate) => toHex(sha256(certificate.der))).join(" ")}`, where);
    return { kind, product, authorities: checkAuthorities(certificates, kind, product) };
  });
  const crls = list(document["crls"], "crls", ENDORSEMENT_KINDS.length * PRODUCT_NAMES.length).map((item, index) => {
    const where = `crls[${index}]`;
    const entry = record(item, where, ["kind", "product", "der"]);
    const { kind, product } = kindAndProduct(entry, where);
    once(`crl ${kind} ${product}`, where);
    return { kind, product, crl: parseCrl(der(entry["der"], where), where) };
  });
  const vceks = list(document["vceks"], "vceks", maxEntries).map((item, index) => {
    const where = `vceks[${index}]`;
    const entry = record(item, where, ["product", "hwId", "tcb", "der"]);
    const found = readVcek(der(entry["der"], where));
    const { product, tcbBytes, hwId } = vcekKeyOf(found.certificate);
    const said = [entry["product"], entry["hwId"], entry["tcb"]];
    if (said[0] !== product || said[1] !== toHex(hwId) || said[2] !== toHex(tcbBytes))
      throw bad(`${where} holds the certificate of another product, chip or TCB than it says`);
    once(`vcek ${toHex(hwId)} ${toHex(tcbBytes)}`, where);
    return found;
  });
  return { authorities, crls, vceks };
}

/**
 * What a store has, for {@link encodeBundle}: what verifies and is in date. Damaged files, and lists whose time is over, are left out.
 * @throws {CertcacheError} ERR_CERTCACHE_STORE
 */
export async function exportBundle(store: EndorsementStore, trust: Trust): Promise<Bundle> {
  const authorities: Bundle["authorities"][number][] = [];
  const crls: Bundle["crls"][number][] = [];
  for (const kind of ENDORSEMENT_KINDS) {
    for (const product of PRODUCT_NAMES) {
      const pairs = await trustedPairs(store, kind, product, trust);
      authorities.push(...pairs.map((pair) => ({ kind, product, authorities: pair })));
      const crl = pairs.length === 0 ? undefined : await store.readCrl(kind, product);
      if (crl !== undefined && holds(() => underAny(pairs, ({ root }) => verifyCrl(crl, root, trust)))) crls.push({ kind, product, crl });
    }
  }
  const vceks = new Map<string, StoredEndorsement>();
  for await (const entry of store.entries()) {
    const found = await store.readEntry(entry);
    const over = authorities.filter(({ kind, product }) => kind === "vcek" && product === found?.key.product);
    if (found === undefined || !over.some((pair) => holds(() => verifyEndorsement(found.certificate, pair.authorities, trust)))) continue;
    vceks.set(`${toHex(found.key.hwId ?? new Uint8Array())} ${toHex(found.key.tcbBytes)}`, found);
  }
  return { authorities, crls, vceks: [...vceks.values()] };
}

/** The pairs of a store that verify. */
async function trustedPairs(store: EndorsementStore, kind: EndorsementKind, product: ProductName, trust: Trust): Promise<readonly Authorities[]> {
  return (await store.readAuthorities(kind, product)).filter((pair) => holds(() => verifyAuthorities(kind, product, pair, trust)));
}

/**
 * Takes a bundle into a store: everything is verified before anything is written, and what was written is taken back if the disk fails midway. (A process that is killed midway
 * leaves some of the files, each whole and verified; importing again does the rest.) Authorities that are here stay beside others of the bundle, for the certificates under them.
 * @throws {CertcacheError} ERR_CERTCACHE_UNTRUSTED, ERR_CERTCACHE_FULL, ERR_CERTCACHE_STORE
 */
export async function importBundle(store: EndorsementStore, bundle: Bundle, trust: Trust): Promise<ImportResult> {
  const brought = new Map<string, { readonly kind: EndorsementKind; readonly product: ProductName; readonly pairs: readonly Authorities[] }>();
  for (const { kind, product, authorities } of bundle.authorities) {
    const name = `${kind} ${product}`;
    const before = brought.get(name)?.pairs ?? (await trustedPairs(store, kind, product, trust));
    brought.set(name, { kind, product, pairs: orderedPairs([verifyAuthorities(kind, product, authorities, trust), ...before]) });
  }
  const known = new Map([...brought].map(([name, { pairs }]) => [name, pairs]));
  const pairsOf = async (kind: EndorsementKind, product: ProductName): Promise<readonly Authorities[]> => {
    const pairs = known.get(`${kind} ${product}`) ?? (await trustedPairs(store, kind, product, trust));
    known.set(`${kind} ${product}`, pairs);
    if (pairs.length === 0) {
      throw new CertcacheError("ERR_CERTCACHE_UNTRUSTED", `there are no certificates of the authorities ${kind} ${product} to verify with`, {
        hint: `Trustee's offline store holds no ASK and ARK: name their file (--chain cert_chain.pem; AMD has it at ${chainUrl(kind, product)}), fetch them with \`sealpod certcache fetch --product ${product}\` first, or import a bundle that has them.`,
      });
    }
    return pairs;
  };

  const crls: Bundle["crls"][number][] = [];
  for (const item of bundle.crls) {
    const pairs = await pairsOf(item.kind, item.product);
    // The signature at the list's own time: a list whose time is over is no forgery, and no use either.
    trusted("revocation list", () => underAny(pairs, ({ root }) => verifyCrl(item.crl, root, { clock: { now: () => item.crl.thisUpdate } })));
    const stored = await store.readCrl(item.kind, item.product);
    const now = trust.clock.now();
    if (now >= item.crl.thisUpdate && now < item.crl.nextUpdate + 1000 && (stored === undefined || isNewer(item.crl, stored))) crls.push(item);
  }
  const vceks: StoredEndorsement[] = [];
  let files = 0;
  for (const item of bundle.vceks) {
    underAny(await pairsOf("vcek", item.key.product), (pair) => verifyEndorsement(item.certificate, pair, trust));
    const stored = await store.readEndorsement(requestOf(vcekKeyOf(item.certificate)));
    if (stored !== undefined && stored.certificate.notBefore >= item.certificate.notBefore) continue;
    vceks.push(item);
    // One that takes the place of another needs no room of its own.
    if (await store.isNew(item.certificate)) files++;
  }
  if (files > 0 && store.count + files > store.maxEntries) {
    throw new CertcacheError(
      "ERR_CERTCACHE_FULL",
      `${files} new certificates beside ${store.count} are more than the limit of ${store.maxEntries}; nothing was imported`,
      {
        hint: "Raise --max-entries, or import fewer.",
      },
    );
  }
  await store.writeAll({ authorities: [...brought.values()], crls, certificates: vceks.map(({ certificate }) => certificate) });
  return {
    vceks: vceks.length,
    known: bundle.vceks.length - vceks.length,
    authorities: bundle.authorities.length,
    crls: crls.length,
    oldCrls: bundle.crls.length - crls.length,
  };
}

/**
 * Reads the directory of a store, ours or Trustee's offline store, as a bundle. Each file must hold what its name says; a directory without any such file is refused, whatever chains
 * are named beside it.
 * @param directory the one that holds `vcek`, or `vcek` itself
 * @param chains PEM texts of ASK and ARK, for directories that do not hold them
 * @throws {CertcacheError} ERR_CERTCACHE_BUNDLE, ERR_CERTCACHE_STORE
 */
export async function readBundleDirectory(
  directory: string,
  chains: readonly string[] = [],
  maxEntries: number = DEFAULT_MAX_ENTRIES,
): Promise<DirectoryBundle> {
  const isVcek = basename(directory) === "vcek";
  const top = isVcek ? dirname(directory) : directory;
  const named = chains.map((pem, index) => malformed(`chain ${index + 1}`, () => anyAuthorities(pem)));
  const authorities = [...named];
  const crls: Bundle["crls"][number][] = [];
  let known = 0;
  for (const kind of ENDORSEMENT_KINDS) {
    for (const product of PRODUCT_NAMES) {
      const chain = await read(join(top, "chain", `${kind}_${product}.pem`), MAX_CERTIFICATES_BYTES);
      if (chain !== undefined) known++;
      if (chain !== undefined && !named.some((pair) => pair.kind === kind && pair.product === product))
        authorities.push(...malformed("chain", () => parsePairs(chain, kind, product)).map((pair) => ({ kind, product, authorities: pair })));
      const crl = await read(join(top, "crl", `${kind}_${product}.der`), MAX_KDS_CRL_BYTES);
      if (crl === undefined) continue;
      known++;
      crls.push({ kind, product, crl: malformed("revocation list", () => parseCrl(crl)) });
    }
  }
  const vceks = new Map<string, StoredEndorsement>();
  const ignored: string[] = [];
  let ignoredCount = 0;
  const ignore = (path: string): void => {
    // eslint-disable-next-line no-control-regex -- the name of a file must not move the cursor or paint the terminal
    if (ignoredCount++ < MAX_IGNORED_NAMES) ignored.push(path.replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, "?"));
  };
  // Beside a directory `vcek` that was named itself, others are nobody's business.
  if (!isVcek) for (const path of await strangers(top)) ignore(path);
  for await (const entry of listEntries(join(top, "vcek"), (path) => ignore(isVcek ? path : join("vcek", path)))) {
    if (vceks.size >= maxEntries) throw bad(`${directory}: more than ${maxEntries} certificates`);
    const bytes = await read(entry.path, MAX_CERTIFICATES_BYTES);
    if (bytes === undefined) continue;
    const found = malformed(entry.path, () => readVcek(bytes));
    if (!isNamed(found.key, entry)) throw bad(`${entry.path} holds the certificate of another chip or TCB than its name says`);
    vceks.set(`${toHex(found.key.hwId ?? new Uint8Array())} ${toHex(found.key.tcbBytes)}`, found);
  }
  if (vceks.size + known === 0) {
    const found = ignoredCount === 0 ? "nothing" : `${ignored.join(", ")}${ignoredCount > ignored.length ? ` and ${ignoredCount - ignored.length} more` : ""}`;
    throw new CertcacheError("ERR_CERTCACHE_BUNDLE", `${directory} holds no certificates in a known layout; found ${found}`, {
      hint: "Expected vcek/HWID/bl04_tee00_snp24_ucode219_vcek.der, as in the offline store of Trustee.",
    });
  }
  return { authorities, crls, vceks: [...vceks.values()], ignored: { count: ignoredCount, names: ignored } };
}

/** What lies in the directory of a store, `vcek` left aside, and is no file of one: paths relative to it. */
async function strangers(top: string): Promise<readonly string[]> {
  const folders: Readonly<Record<string, string>> = { chain: "pem", crl: "der" };
  const paths: string[] = [];
  for (const entry of await listDirectory(top)) {
    const { name } = entry;
    if ((name === "vcek" && entry.isDirectory()) || isTemporary(name)) continue;
    const suffix = entry.isDirectory() ? folders[name] : undefined;
    if (suffix === undefined) {
      paths.push(name);
      continue;
    }
    const files = ENDORSEMENT_KINDS.flatMap((kind) => PRODUCT_NAMES.map((product) => `${kind}_${product}.${suffix}`));
    for (const file of await listDirectory(join(top, name))) if (!files.includes(file.name) && !isTemporary(file.name)) paths.push(join(name, file.name));
  }
  return paths;
}

/** Bytes of the bundle file. */
export function bundleBytes(bundle: Bundle): Uint8Array {
  return encodeUtf8(encodeBundle(bundle));
}

/** ASK and ARK of whatever kind and product they are. */
function anyAuthorities(pem: string): Bundle["authorities"][number] {
  const certificates = parseCertificatesPem(pem, "chain");
  for (const kind of ENDORSEMENT_KINDS) {
    for (const product of PRODUCT_NAMES) {
      try {
        return { kind, product, authorities: checkAuthorities(certificates, kind, product) };
      } catch (error) {
        if (!isSealpodError(error)) throw error;
      }
    }
  }
  throw bad(`${certificates.length} certificates that are not ASK (or ASVK) and ARK of ${PRODUCT_NAMES.join(", ")}`);
}

async function read(path: string, limit: number): Promise<Uint8Array | undefined> {
  const bytes = await readSmallFile(path, limit);
  if (bytes === "unusable") throw bad(`${path} is no file of up to ${limit} bytes`);
  return bytes;
}

function holds(check: () => unknown): boolean {
  try {
    check();
    return true;
  } catch (error) {
    if (isSealpodError(error)) return false;
    throw error;
  }
}

function kindAndProduct(entry: JsonObject, where: string): { readonly kind: EndorsementKind; readonly product: ProductName } {
  const kind = ENDORSEMENT_KINDS.find((item) => item === entry["kind"]);
  const product = PRODUCT_NAMES.find((item) => item === entry["product"]);
  if (kind === undefined || product === undefined) throw bad(`${where}: kind ${show(entry["kind"])} and product ${show(entry["product"])} are not known`);
  return { kind, product };
}

/** An object with these names and no others: a reader that skips what it does not know would lose it on the way. */
function record(value: JsonValue | undefined, where: string, names: readonly string[]): JsonObject {
  const object = asObject(value);
  const found = Object.keys(object ?? {});
  if (object === undefined || found.length !== names.length || !names.every((name) => found.includes(name)))
    throw bad(`${where} is no object with exactly ${names.join(", ")}`);
  return object;
}

function list(value: JsonValue | undefined, where: string, limit: number): readonly JsonValue[] {
  const items = asArray(value);
  if (items === undefined) throw bad(`${where} is no list`);
  if (items.length > limit) throw bad(`${where} has ${items.length} entries, more than the limit of ${limit}`);
  return items;
}

function der(value: JsonValue | undefined, where: string): Uint8Array {
  if (typeof value !== "string") throw bad(`${where}: a certificate is no text`);
  return fromBase64(value, where);
}

function onlyOnce(): (key: string, where: string) => void {
  const seen = new Set<string>();
  return (key, where) => {
    if (seen.has(key)) throw bad(`${where} is there twice`);
    seen.add(key);
  };
}

function show(value: JsonValue | undefined): string {
  return typeof value === "string" ? JSON.stringify(value.slice(0, 40)) : typeof value === "number" ? String(value) : typeof value;
}

function bad(message: string): CertcacheError {
  return new CertcacheError("ERR_CERTCACHE_BUNDLE", message);
}

function malformed<T>(what: string, parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code === "ERR_CERTCACHE_BUNDLE") throw cause;
    throw new CertcacheError("ERR_CERTCACHE_BUNDLE", `${what}: ${messageOf(cause)}`, { cause });
  }
}
