/** Values that {@link encodePrettyJson} prints: objects keep the order of their fields, maps are sorted. */
export type PrintableJson =
  | null
  | boolean
  | number
  | string
  | readonly PrintableJson[]
  | ReadonlyMap<string, PrintableJson>
  | { readonly [name: string]: PrintableJson | undefined };

/**
 * JSON text with two spaces per level, `": "` between name and value, `[]` and `{}` for what is empty, no line break at the
 * end (specs/genpolicy.md 3.1). Names of objects keep their order; names of maps are sorted by their UTF-8 bytes; fields that
 * are undefined are left out. Nothing but quotes, backslashes and control characters is escaped.
 */
export function encodePrettyJson(value: PrintableJson): string {
  return print(value, "\n");
}

/** Order of the UTF-8 bytes of two texts. `<` compares UTF-16 units and differs above U+FFFF. */
export function compareBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

function print(value: PrintableJson, newline: string): string {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const inner = `${newline}  `;
  if (isArray(value)) {
    if (value.length === 0) return "[]";
    return `[${value.map((item) => inner + print(item, inner)).join(",")}${newline}]`;
  }
  const entries = value instanceof Map ? [...value].sort(([a], [b]) => compareBytes(a, b)) : Object.entries(value);
  const fields = entries.flatMap(([name, item]) => (item === undefined ? [] : `${inner}${JSON.stringify(name)}: ${print(item, inner)}`));
  return fields.length === 0 ? "{}" : `{${fields.join(",")}${newline}}`;
}

function isArray(value: PrintableJson): value is readonly PrintableJson[] {
  return Array.isArray(value);
}
