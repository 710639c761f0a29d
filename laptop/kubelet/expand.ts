/**
 * Kubernetes' `$(NAME)` expansion: `$$` is a dollar sign, an unknown name stays as it is written.
 * @param value gives the value of a name, or undefined
 */
export function expand(text: string, value: (name: string) => string | undefined): string {
  let out = "";
  for (let at = 0; at < text.length; at++) {
    const char = text.charAt(at);
    const next = text.charAt(at + 1);
    if (char !== "$" || next === "") {
      out += char;
    } else if (next === "$") {
      out += "$";
      at++;
    } else if (next === "(" && text.includes(")", at + 2)) {
      const end = text.indexOf(")", at + 2);
      const name = text.slice(at + 2, end);
      out += value(name) ?? `$(${name})`;
      at = end;
    } else {
      // "$" before another character, or "$(" that never closes, is plain text.
      out += char + next;
      at++;
    }
  }
  return out;
}
