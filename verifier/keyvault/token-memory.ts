import { hash, type KeyObject } from "node:crypto";
import type { UnverifiedToken } from "./token.ts";

/** Callers ask with the same token for an hour. The one that was not used for longest goes first. */
const MAX_TOKENS = 1024;
/** Characters; keeps all of them together within some 32 MiB. Larger tokens are verified each time. */
const MAX_REMEMBERED = 8 * 1024;

/** A token, and the key that its signature was verified with. */
export interface RememberedToken {
  readonly token: UnverifiedToken;
  readonly key: KeyObject;
}

/**
 * Remembers of tokens that a certain key did sign them: the one fact about a token that does not change. Whether that key still counts, whether the token is in its time, and what
 * it is good for is looked at each time. Kept by digest: nothing in here can be presented as a token.
 */
export class TokenMemory {
  readonly #tokens = new Map<string, RememberedToken>();

  /** @returns undefined for a token that is not known */
  get(token: string): RememberedToken | undefined {
    if (token.length > MAX_REMEMBERED) return undefined;
    const digest = hash("sha256", token, "base64");
    const known = this.#tokens.get(digest);
    if (known !== undefined) {
      this.#tokens.delete(digest);
      this.#tokens.set(digest, known);
    }
    return known;
  }

  /** To be called only after the signature was verified with the key. */
  add(token: UnverifiedToken, key: KeyObject): void {
    if (token.token.length > MAX_REMEMBERED) return;
    // Without the text of the token, which is all that it takes to be its bearer.
    this.#tokens.set(hash("sha256", token.token, "base64"), { token: { ...token, token: "" }, key });
    if (this.#tokens.size > MAX_TOKENS) for (const oldest of [...this.#tokens.keys()].slice(0, 1)) this.#tokens.delete(oldest);
  }
}
