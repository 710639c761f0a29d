import { isSealpodError, toHex } from "@sealpod/core";
import { underAny, verifyAuthorities, verifyEndorsement } from "@sealpod/certcache";
import { verifyCrl } from "@sealpod/pki";
import { type Authorities, ENDORSEMENT_KINDS, formatTcb, formatTcbNumber, PRODUCT_NAMES } from "@sealpod/snp";
import { loggerOf, openStore, type StoreFlags, trustOf } from "../certcache/session.ts";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";

/** `sealpod certcache list`. */
export const run: Verb<StoreFlags> = async (options, _operands, context) => {
  const store = await openStore(options, context, loggerOf(options, context), "refuse");
  const trust = await trustOf(options, context);
  const chains = new Map<string, readonly Authorities[]>();
  const authorities: Record<string, unknown>[] = [];
  const crls: Record<string, unknown>[] = [];
  for (const kind of ENDORSEMENT_KINDS) {
    for (const product of PRODUCT_NAMES) {
      const pairs = await store.readAuthorities(kind, product);
      const crl = await store.readCrl(kind, product);
      chains.set(`${kind} ${product}`, pairs);
      for (const pair of pairs) authorities.push({ kind, product, state: stateOf([pair], () => verifyAuthorities(kind, product, pair, trust)) });
      if (crl !== undefined) {
        // A list is worth what its root is.
        const state = stateOf(pairs, (pair) => verifyCrl(crl, verifyAuthorities(kind, product, pair, trust).root, trust));
        crls.push({ kind, product, state, number: crl.number?.toString(), nextUpdate: new Date(crl.nextUpdate).toISOString(), entries: crl.revoked.size });
      }
    }
  }
  const certificates: Record<string, unknown>[] = [];
  const lines: string[] = [];
  for await (const entry of store.entries()) {
    const found = await store.readEntry(entry);
    if (found === undefined) {
      certificates.push({ hwId: entry.hwId, file: entry.path, state: "damaged" });
      lines.push(row("-", entry.hwId, "-", "-", `damaged: ${entry.path}`));
      continue;
    }
    const { key, certificate } = found;
    const state = stateOf(chains.get(`vcek ${key.product}`) ?? [], (pair) => verifyEndorsement(certificate, pair, trust));
    const validUntil = new Date(certificate.notAfter).toISOString();
    certificates.push({
      product: key.product,
      hwId: toHex(key.hwId ?? new Uint8Array()),
      tcb: formatTcbNumber(key.tcbBytes),
      levels: formatTcb(key.tcb),
      validUntil,
      state,
      file: entry.path,
    });
    lines.push(row(key.product, entry.hwId, formatTcbNumber(key.tcbBytes), validUntil.slice(0, 10), state));
  }
  if (options.json === true) {
    context.stdout.write(`${JSON.stringify({ directory: store.directory, maxEntries: store.maxEntries, certificates, authorities, crls }, undefined, 2)}\n`);
    return EXIT.ok;
  }
  context.stdout.write(`${store.directory}: ${store.count} of ${store.maxEntries} certificates\n`);
  if (lines.length > 0) context.stdout.write(`${[row("line", "chip", "TCB", "until", "state"), ...lines].join("\n")}\n`);
  for (const { kind, product, state } of authorities) context.stdout.write(`chain ${String(kind)} ${String(product)}: ${String(state)}\n`);
  for (const { kind, product, state, nextUpdate, entries } of crls)
    context.stdout.write(`revocation list ${String(kind)} ${String(product)}: ${String(state)}, ${String(entries)} entries, until ${String(nextUpdate)}\n`);
  return EXIT.ok;
};

/** "verified" if the check holds under one of the pairs, or the code of what is wrong. */
function stateOf(pairs: readonly Authorities[], check: (pair: Authorities) => unknown): string {
  if (pairs.length === 0) return "no chain to verify with";
  try {
    underAny(pairs, check);
    return "verified";
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return `not trusted (${error.code})`;
  }
}

function row(product: string, hwId: string, tcb: string, until: string, state: string): string {
  const chip = hwId.length > 16 ? `${hwId.slice(0, 16)}…` : hwId.padEnd(17);
  return `${product.padEnd(5)}  ${chip}  ${tcb.padStart(16)}  ${until.padEnd(10)}  ${state}`;
}
