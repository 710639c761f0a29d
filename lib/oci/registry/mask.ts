/** Shorter texts are no secrets, and masking them would eat ordinary words. */
const MIN_SECRET = 4;

/** Secrets that were used, so that no text from outside can carry one into an error or a log: a registry may echo what it was sent. */
export class SecretMask {
  readonly #secrets = new Set<string>();

  /** Remembers a secret, and the forms in which it travels. */
  add(secret: string): void {
    if (secret.length < MIN_SECRET) return;
    this.#secrets.add(secret);
    this.#secrets.add(encodeURIComponent(secret));
    this.#secrets.add(new URLSearchParams([["", secret]]).toString().slice(1));
  }

  /** True if a secret stands in the text, in whatever case and percent-encoding: URLs change both. */
  isIn(text: string): boolean {
    const plain = folded(text);
    return [...this.#secrets].some((secret) => plain.includes(folded(secret)));
  }

  /** The text in one line of printable characters, at most `limit` of them, without secrets. */
  clean(text: string, limit = 300): string {
    let clean = text;
    // The longest first: one secret may be a part of another.
    for (const secret of [...this.#secrets].sort((a, b) => b.length - a.length)) clean = clean.replaceAll(secret, "***");
    // Control, formatting and other unprintable characters could rewrite the terminal's line.
    clean = clean.replace(/[\p{C}\p{Zl}\p{Zp}]+/gu, " ").trim();
    return clean.length > limit ? `${clean.slice(0, limit)}…` : clean;
  }
}

/** The text's bytes as one character each, in lower case, percent-encoding undone. */
function folded(text: string): string {
  const bytes = Buffer.from(text).toString("latin1").toLowerCase();
  return bytes.replace(/%([0-9a-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)).toLowerCase());
}
