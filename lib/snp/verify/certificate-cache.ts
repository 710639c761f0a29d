import { concatBytes, encodeUtf8, sha256, toHex } from "@sealpod/core";
import { SnpError } from "../errors.ts";
import type { EndorsementKind } from "../kds/url.ts";
import { type CertificateChain, parseCertificateChainPem } from "./certificate-chain.ts";
import type { SignedChain } from "./signed-chain.ts";

/** Largest capacity: three certificates with their keys take about 60 KiB, so this is 1 GiB of chains and as much of texts. */
const MAX_CAPACITY = 16_384;

/** How often each kind of memory had what was asked for. */
export interface CertificateCacheStatistics {
  readonly chainHits: number;
  readonly chainMisses: number;
  readonly textHits: number;
  readonly textMisses: number;
}

/**
 * Remembers which chains were found to sign one another, and what their texts read as: a node sends the same three certificates with each report.
 * What it remembers follows from the bytes alone, under their SHA-256. Whether a root is trusted, dates are met or a certificate is revoked is no part of it, so verifiers
 * with different roots may share one. It holds the chains and texts that were used last, `capacity` of each.
 */
export class CertificateCache {
  readonly #capacity: number;
  // Two memories: texts are read before anything is known about them, so whoever sends many can push out other texts, but no verified chain.
  readonly #texts = new Map<string, CertificateChain>();
  readonly #chains = new Map<string, SignedChain>();
  #chainHits = 0;
  #chainMisses = 0;
  #textHits = 0;
  #textMisses = 0;

  /**
   * @param options.capacity chains, and texts, to remember: 1 to 16384; about 60 KiB each
   * @throws {SnpError} ERR_SNP_FIELD
   */
  constructor(options: { readonly capacity: number }) {
    const { capacity } = options;
    if (!Number.isInteger(capacity) || capacity < 1 || capacity > MAX_CAPACITY)
      throw new SnpError("ERR_SNP_FIELD", `certificate cache: capacity ${capacity}, expected 1 to ${MAX_CAPACITY}`);
    this.#capacity = capacity;
  }

  /** Hits and misses since the cache was made. */
  get statistics(): CertificateCacheStatistics {
    return { chainHits: this.#chainHits, chainMisses: this.#chainMisses, textHits: this.#textHits, textMisses: this.#textMisses };
  }

  /**
   * {@link parseCertificateChainPem}, remembered. A text that does not read is not: each time it fails anew.
   * @param preferred as there; a text is remembered for each
   * @throws {SnpError} ERR_SNP_CERTIFICATE, ERR_SNP_CHAIN
   */
  parsePem(text: string, preferred?: EndorsementKind): CertificateChain {
    const key = `${preferred ?? ""} ${toHex(sha256(encodeUtf8(text)))}`;
    const known = recall(this.#texts, key);
    if (known !== undefined) {
      this.#textHits++;
      return known;
    }
    this.#textMisses++;
    const chain = parseCertificateChainPem(text, preferred);
    remember(this.#texts, key, chain, this.#capacity);
    return chain;
  }

  /** What was remembered of these certificates; its own copies of them are what was verified. */
  find(certificates: CertificateChain): SignedChain | undefined {
    const known = recall(this.#chains, chainKey(certificates));
    if (known === undefined) this.#chainMisses++;
    else this.#chainHits++;
    return known;
  }

  /** Remembers a chain. */
  add(chain: SignedChain): void {
    remember(this.#chains, chainKey(chain.certificates), chain, this.#capacity);
  }
}

/** SHA-256 over the hashes of the three, so that no byte can move from one certificate to the next. */
function chainKey({ endorsementKey, intermediate, root }: CertificateChain): string {
  return toHex(sha256(concatBytes(sha256(endorsementKey.der), sha256(intermediate.der), sha256(root.der))));
}

/** A Map keeps the order of insertion: what is used goes to its end, so the first is what was not used for longest. */
function recall<V>(map: Map<string, V>, key: string): V | undefined {
  const value = map.get(key);
  if (value === undefined) return undefined;
  map.delete(key);
  map.set(key, value);
  return value;
}

function remember<V>(map: Map<string, V>, key: string, value: V, capacity: number): void {
  map.delete(key);
  map.set(key, value);
  const [oldest] = map.keys();
  if (map.size > capacity && oldest !== undefined) map.delete(oldest);
}
