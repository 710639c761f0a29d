import type { RegoObject, Value } from "../values/index.ts";
import { isArray, marshal, quoteJson, RegoSet, sortedMembers } from "../values/index.ts";
import { BuiltinError, operandError } from "./builtin.ts";

const KNOWN_OPTIONS: readonly string[] = ["pretty", "indent", "prefix"];

/** JSON text with the options of `json.marshal_with_options`: `pretty`, `indent`, `prefix`. */
export function indented(value: Value, options: RegoObject): string {
  for (const key of options.keys()) {
    if (typeof key !== "string" || !KNOWN_OPTIONS.includes(key)) throw new BuiltinError("operand", `object contained unknown key ${JSON.stringify(key)}`);
  }
  const text = (name: string, fallback: string): string => {
    const found = options.get(name);
    if (found === undefined) return fallback;
    if (typeof found !== "string") throw operandError(2, `an object whose ${name} is a string`, found);
    return found;
  };
  const indent = text("indent", "\t");
  const prefix = text("prefix", "");
  const pretty = options.get("pretty") ?? options.size > 0;
  if (typeof pretty !== "boolean") throw operandError(2, "an object whose pretty is a boolean", pretty);
  return pretty ? prefix + write(value, indent, `\n${prefix}`) : marshal(value);
}

function write(value: Value, indent: string, line: string): string {
  const inner = line + indent;
  if (isArray(value) || value instanceof RegoSet) {
    const items = isArray(value) ? value : value.items();
    return items.length === 0 ? "[]" : `[${inner}${items.map((item) => write(item, indent, inner)).join(`,${inner}`)}${line}]`;
  }
  if (typeof value !== "object" || value === null) return marshal(value);
  const members = sortedMembers(value);
  if (members.length === 0) return "{}";
  return `{${inner}${members.map(([name, item]) => `${quoteJson(name)}: ${write(item, indent, inner)}`).join(`,${inner}`)}${line}}`;
}
