/**
 * Texts of Args and Env under our own settings: `$$` stands for `$`, `$(name)` for a value of the running pod, everything else for
 * itself. So no text of the author can be taken for a placeholder.
 */

/** Longest text that references may build: a pod of this size would not fit into an annotation anyway. */
const MAX_EXPANDED = 1024 * 1024;

/** Text of the author in a policy. */
export function encodeLiteral(text: string): string {
  return text.replaceAll("$", () => "$$");
}

/** A value that only the running pod has. */
export function encodePlaceholder(name: string): string {
  return `$(${name})`;
}

/** The text that an encoded text stands for; undefined if it depends on the running pod. */
export function decodeLiteral(encoded: string): string | undefined {
  return encoded.replaceAll("$$", "").includes("$(") ? undefined : encoded.replaceAll("$$", () => "$");
}

/**
 * Kubernetes' expansion of `$(NAME)` in `value`, `command` and `args`: `$$` is a dollar sign, an unknown name stays as it is written.
 * @param value encoded value of a name, or undefined
 * @returns encoded text; undefined if it is longer than 1 MiB
 */
export function expandReferences(text: string, value: (name: string) => string | undefined): string | undefined {
  let out = "";
  for (let at = 0; at < text.length;) {
    const dollar = text.indexOf("$", at);
    if (dollar === -1) {
      out += text.slice(at);
      break;
    }
    out += text.slice(at, dollar);
    const next = text.charAt(dollar + 1);
    const end = next === "(" ? text.indexOf(")", dollar + 2) : -1;
    if (end !== -1) {
      const name = text.slice(dollar + 2, end);
      out += value(name) ?? encodeLiteral(`$(${name})`);
      at = end + 1;
    } else {
      // "$$" is one dollar sign; "$" before another character, or "$(" that never closes, is plain text.
      out += next === "$" ? encodeLiteral("$") : encodeLiteral("$") + next;
      at = dollar + 2;
    }
    if (out.length > MAX_EXPANDED) return undefined;
  }
  return out.length > MAX_EXPANDED ? undefined : out;
}
