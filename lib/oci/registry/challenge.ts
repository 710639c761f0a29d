/** One challenge of a WWW-Authenticate header (RFC 9110 section 11.6.1). */
export interface Challenge {
  /** Lower case. */
  readonly scheme: string;
  /** Names in lower case. Empty for the form with one bare token. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** Longest header: what servers take themselves. */
const MAX_HEADER = 8192;
/** Real registries send one or two challenges of three parameters. */
const MAX_CHALLENGES = 8;
const MAX_PARAMETERS = 16;

const SPACE = /[ \t]*/y;
const TOKEN = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y;
const TOKEN68 = /[A-Za-z0-9._~+/-]+=*/y;

/**
 * Parses a WWW-Authenticate header; several header lines joined by commas are one. Strict: what RFC 9110 does not allow,
 * control characters, a parameter that stands twice, and more of anything than a registry has use for make it undefined.
 */
export function parseChallenges(header: string): readonly Challenge[] | undefined {
  return header.length > MAX_HEADER ? undefined : new ChallengeParser(header).parse();
}

class ChallengeParser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  parse(): readonly Challenge[] | undefined {
    const challenges: Challenge[] = [];
    for (;;) {
      this.#commas();
      if (this.#at === this.#text.length) return challenges;
      const challenge = challenges.length < MAX_CHALLENGES ? this.#challenge() : undefined;
      if (challenge === undefined) return undefined;
      challenges.push(challenge);
    }
  }

  #challenge(): Challenge | undefined {
    const scheme = this.#take(TOKEN);
    if (scheme === undefined) return undefined;
    const parameters = new Map<string, string>();
    const challenge = { scheme: scheme.toLowerCase(), parameters };
    if (this.#ends()) return challenge;
    // The scheme ends at a space; anything else is no challenge.
    if (this.#take(SPACE) === undefined) return undefined;
    if (this.#ends()) return challenge;
    for (let expected = true; ; expected = false) {
      const start = this.#at;
      const parameter = this.#parameter();
      if (parameter === undefined) {
        this.#at = start;
        // The bare token of schemes that this client does not speak, e.g. Negotiate.
        if (expected && this.#take(TOKEN68) !== undefined && this.#ends()) return challenge;
        // No parameter after a comma: the next challenge begins there.
        return expected || !this.#isScheme(start) ? undefined : challenge;
      }
      const name = parameter.name.toLowerCase();
      if (parameters.has(name) || parameters.size === MAX_PARAMETERS) return undefined;
      parameters.set(name, parameter.value);
      if (!this.#ends()) return undefined;
      this.#commas();
      if (this.#at === this.#text.length) return challenge;
    }
  }

  #parameter(): { readonly name: string; readonly value: string } | undefined {
    const name = this.#take(TOKEN);
    if (name === undefined) return undefined;
    this.#take(SPACE);
    if (this.#text[this.#at] !== "=") return undefined;
    this.#at++;
    this.#take(SPACE);
    const value = this.#text[this.#at] === '"' ? this.#quoted() : this.#take(TOKEN);
    return value === undefined ? undefined : { name, value };
  }

  #quoted(): string | undefined {
    let value = "";
    for (this.#at++; this.#at < this.#text.length; this.#at++) {
      let char = this.#text[this.#at] ?? "";
      if (char === '"') {
        this.#at++;
        return value;
      }
      if (char === "\\") char = this.#text[++this.#at] ?? "";
      // Visible ASCII and space: URLs, names and scopes need no more.
      if (!/^[\x20-\x7e]$/.test(char)) return undefined;
      value += char;
    }
    return undefined;
  }

  /** True where a scheme's name stands: a token that a space, a comma or the end follows. */
  #isScheme(at: number): boolean {
    this.#at = at;
    const isScheme = this.#take(TOKEN) !== undefined && (this.#ends() || /[ \t]/.test(this.#text[this.#at] ?? ""));
    this.#at = at;
    return isScheme;
  }

  /** True at a comma or the end, behind spaces. */
  #ends(): boolean {
    const start = this.#at;
    this.#take(SPACE);
    const isEnd = this.#at === this.#text.length || this.#text[this.#at] === ",";
    if (!isEnd) this.#at = start;
    return isEnd;
  }

  /** Skips commas and spaces: RFC 9110 section 5.6.1.2 allows empty elements. */
  #commas(): void {
    for (;;) {
      this.#take(SPACE);
      if (this.#text[this.#at] !== ",") return;
      this.#at++;
    }
  }

  #take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found === undefined || found === "") return undefined;
    this.#at += found.length;
    return found;
  }
}
