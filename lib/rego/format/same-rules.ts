import type { Module } from "../syntax/ast.ts";

/** Fields of a node that tell where it stands and not what it says. */
const PLACES: ReadonlySet<string> = new Set(["at", "end"]);

/** True if two lists of rules say the same, wherever they stand. As deep as the nesting that the parser let through. */
export function sameRules(left: Module["rules"], right: Module["rules"]): boolean {
  return same(left, right);
}

/** Nodes are plain objects of lists, words and scalars. */
function same(left: unknown, right: unknown): boolean {
  if (typeof left !== "object" || left === null || typeof right !== "object" || right === null) return Object.is(left, right);
  const names = fieldsOf(left);
  const others = new Map(fieldsOf(right));
  return names.length === others.size && names.every(([name, value]) => others.has(name) && same(value, others.get(name)));
}

function fieldsOf(node: object): [string, unknown][] {
  return Object.entries(node).filter(([name, value]) => value !== undefined && !PLACES.has(name));
}
