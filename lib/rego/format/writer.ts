/** What stands between two pieces of text, by strength: asking for a weaker one than is pending changes nothing. */
const NOTHING = 0;
const SPACE = 1;
const LINE = 2;
const BLANK = 3;

/** Puts pieces of text together with spaces, line breaks and indentation by tabs. */
export class Writer {
  /** Tabs in front of lines that start from now on. */
  indent = 0;
  readonly #parts: string[] = [];
  #pending = NOTHING;
  #afterComment = false;
  #afterOpening = false;

  space(): void {
    this.#pending = Math.max(this.#pending, SPACE);
  }

  line(): void {
    this.#pending = Math.max(this.#pending, LINE);
  }

  /** A line break and an empty line; right behind an opening bracket and at the start of the text there is none. */
  blankLine(): void {
    this.#pending = this.#afterOpening ? Math.max(this.#pending, LINE) : BLANK;
  }

  write(text: string): void {
    if (this.#parts.length > 0) {
      if (this.#pending === SPACE) this.#parts.push(" ");
      else if (this.#pending >= LINE) this.#parts.push(this.#pending === BLANK ? "\n\n" : "\n", "\t".repeat(this.indent));
    }
    this.#parts.push(text);
    this.#pending = NOTHING;
    this.#afterComment = false;
    this.#afterOpening = false;
  }

  /** An opening bracket whose content starts on the next line, one step further in. */
  open(bracket: string): void {
    this.write(bracket);
    this.indent++;
    this.line();
    this.#afterOpening = true;
  }

  /** The closing bracket for {@link open}: on a line of its own, without an empty line above. */
  close(bracket: string): void {
    this.indent--;
    this.#pending = LINE;
    this.write(bracket);
  }

  /** A comment; the line ends behind it. One that shares a line goes behind what was written last, whatever is pending. */
  comment(text: string, ownLine: boolean): void {
    if (ownLine || this.#afterComment || this.#parts.length === 0) {
      this.line();
      this.write(text);
    } else {
      this.#parts.push(" ", text);
    }
    this.line();
    this.#afterComment = true;
  }

  /** The text, with a line break at its end. */
  finish(): string {
    this.#parts.push("\n");
    return this.#parts.join("");
  }
}
