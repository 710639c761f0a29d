/** Where a comma stands before a closing bracket, counted from 1. */
export interface TrailingComma {
  readonly line: number;
  readonly column: number;
}

/**
 * The places in a JSON text where a comma stands between a value and a closing bracket: what hand-written policies have and strict JSON forbids.
 * The text need not be JSON otherwise. Time grows with its length alone.
 */
export function findTrailingCommas(text: string): readonly TrailingComma[] {
  const found: TrailingComma[] = [];
  let [line, from, lineStart] = [1, 0, 0];
  for (const at of trailingCommas(text)) {
    for (let next = text.indexOf("\n", from); next !== -1 && next < at; next = text.indexOf("\n", from)) {
      line++;
      from = lineStart = next + 1;
    }
    found.push({ line, column: at - lineStart + 1 });
  }
  return found;
}

/** The text with a space for each trailing comma, so that what is wrong elsewhere is still found in its place. */
export function withoutTrailingCommas(text: string): string {
  let result = "";
  let from = 0;
  for (const at of trailingCommas(text)) {
    result += `${text.slice(from, at)} `;
    from = at + 1;
  }
  return result + text.slice(from);
}

/** A string, which may lack its end, or anything else but white space. */
const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"?|[^\s"]/gs;

function trailingCommas(text: string): readonly number[] {
  const found: number[] = [];
  // The last two tokens: a comma counts only after something that can end a value, or `[,]` would become `[]`.
  let [before, last, lastAt] = ["", "", 0];
  for (const { 0: token, index } of text.matchAll(TOKEN)) {
    if ((token === "]" || token === "}") && last === "," && !["", ",", "[", "{", ":"].includes(before)) found.push(lastAt);
    [before, last, lastAt] = [last, token, index];
  }
  return found;
}
