/** A Go string literal (`strconv.Quote`): how OPA prints strings inside composite values and for `%q`. */
export function quoteGo(text: string): string {
  if (isPlain(text)) return `"${text}"`;
  let quoted = '"';
  for (const char of text) quoted += quoteChar(char, '"');
  return `${quoted}"`;
}

/** True for printable ASCII without quotes and backslashes: most strings, which need no look at each character. */
function isPlain(text: string): boolean {
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit < 0x20 || unit > 0x7e || unit === 0x22 || unit === 0x5c) return false;
  }
  return true;
}

/** The Go rune literal of a code point (`%q` of an integer). */
export function quoteRune(codePoint: number): string {
  return `'${quoteChar(String.fromCodePoint(codePoint), "'")}'`;
}

function quoteChar(char: string, quote: string): string {
  if (char === quote || char === "\\") return `\\${char}`;
  const code = char.codePointAt(0)!;
  switch (code) {
    case 7:
      return "\\a";
    case 8:
      return "\\b";
    case 9:
      return "\\t";
    case 10:
      return "\\n";
    case 11:
      return "\\v";
    case 12:
      return "\\f";
    case 13:
      return "\\r";
    default:
      break;
  }
  if (code < 0x20 || code === 0x7f) return `\\x${code.toString(16).padStart(2, "0")}`;
  if (isPrintable(code)) return char;
  return code > 0xffff ? `\\U${code.toString(16).padStart(8, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
}

/** Go's notion for the ranges that matter: controls, format characters, separators, surrogates, private use and noncharacters are not printable. */
function isPrintable(code: number): boolean {
  if (code < 0x7f) return true;
  if (code < 0xa1 || code === 0xad) return false;
  if (code >= 0x2000 && code <= 0x200f) return false;
  if (code >= 0x2028 && code <= 0x202f) return false;
  if (code >= 0x205f && code <= 0x206f) return false;
  if (code >= 0xd800 && code <= 0xf8ff) return false;
  if (code === 0x3000 || code === 0x1680 || code === 0xfeff) return false;
  if (code >= 0xfff0 && code <= 0xfffb) return false;
  return code < 0xe0000 && (code & 0xfffe) !== 0xfffe;
}
