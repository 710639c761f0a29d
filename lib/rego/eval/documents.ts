import type { TreeNode } from "../analysis/rule-tree.ts";
import { isDocument } from "../analysis/rule-tree.ts";
import type { Primitive, Value } from "../values/index.ts";
import { isPrimitive, lookup, RegoObject, RegoSet } from "../values/index.ts";
import type { Program } from "./program.ts";
import type { Overlay, Query } from "./query.ts";

/**
 * A place in `data`, where rules, base documents and documents put there by `with` meet. Without a node and an overlay it
 * is a plain value.
 */
export interface View {
  readonly node: TreeNode | undefined;
  readonly base: Value | undefined;
  readonly overlay: Overlay | undefined;
  /** True if `base` is of the base documents, where a number names a member by its text. */
  readonly isStored: boolean;
}

/** The root of `data`. */
export function rootView(program: Program, query: Query): View {
  // `with data as ...` replaces everything, rules included.
  if (query.overlay?.value !== undefined) return given(query.overlay.value);
  return { node: program.tree.root, base: query.base, overlay: query.overlay, isStored: true };
}

/** A value that no rule and no base document has a part in. */
function given(value: Value | undefined, overlay?: Overlay): View {
  return { node: undefined, base: value, overlay, isStored: false };
}

export function isPlain(view: View): boolean {
  return view.node === undefined && view.overlay === undefined;
}

/** A step into a base document. OPA's store names members by text, so there a number finds the member of its text. */
export function lookupBase(value: Value, key: Value): Value | undefined {
  const found = lookup(value, key);
  if (found !== undefined || (typeof key !== "number" && typeof key !== "bigint") || !(value instanceof RegoObject)) return found;
  return value.get(String(key));
}

/** The place below a key; undefined if there is none. */
export function descend(program: Program, query: Query, view: View, key: Value): View | undefined {
  const overlay = isPrimitive(key) ? view.overlay?.children.get(key) : undefined;
  if (overlay?.value !== undefined) return given(overlay.value);
  const base = view.base === undefined ? undefined : (view.isStored ? lookupBase : lookup)(view.base, key);
  const node = isPrimitive(key) ? view.node?.children.get(key) : undefined;
  if (node?.group !== undefined) {
    if (!isDocument(node.group)) return overlay === undefined ? undefined : given(undefined, overlay);
    const value = program.document(node.group)(query);
    if (value === undefined && overlay === undefined) return undefined;
    return given(value, overlay);
  }
  if (node === undefined && overlay === undefined && base === undefined) return undefined;
  return { node, base, overlay, isStored: view.isStored };
}

/** Keys below a place, in order. */
export function viewKeys(view: View): readonly Value[] {
  const keys = new RegoSet();
  if (view.base instanceof RegoObject) for (const key of view.base.keys()) keys.add(key);
  else if (view.base instanceof RegoSet) for (const item of view.base.items()) keys.add(item);
  else if (Array.isArray(view.base)) for (let at = 0; at < view.base.length; at++) keys.add(at);
  if (view.node !== undefined) for (const key of view.node.children.keys()) keys.add(key);
  if (view.overlay !== undefined) for (const key of view.overlay.children.keys()) keys.add(key);
  return keys.items();
}

/** The whole document at a place: base documents with all rules that are defined merged in; functions are no documents. */
export function viewValue(program: Program, query: Query, view: View): Value | undefined {
  if (view.overlay?.value !== undefined) return view.overlay.value;
  if (isPlain(view)) return view.base;
  const object = new RegoObject();
  for (const key of viewKeys(view)) {
    query.step();
    const inner = descend(program, query, view, key);
    const value = inner === undefined ? undefined : viewValue(program, query, inner);
    if (value !== undefined) object.put(key, value);
  }
  return object;
}

/** An overlay with one more document in it. */
export function overlayWith(overlay: Overlay | undefined, path: readonly Value[], value: Value, at = 0): Overlay {
  if (at === path.length) return { value, children: new Map() };
  const step = path[at]!;
  if (overlay?.value !== undefined) return { value: withPath(overlay.value, path.slice(at), value), children: new Map() };
  const children = new Map<Primitive, Overlay>(overlay?.children ?? []);
  // Steps of a target are scalars: the lowering takes no others.
  const key = step as Primitive;
  children.set(key, overlayWith(children.get(key), path, value, at + 1));
  return { value: undefined, children };
}

/** A value with another one at a path; what is no object on the way becomes one. */
export function withPath(document: Value | undefined, path: readonly Value[], value: Value, at = 0): Value {
  if (at === path.length) return value;
  const step = path[at]!;
  const copy = document instanceof RegoObject ? document.copy() : new RegoObject();
  copy.put(step, withPath(copy.get(step), path, value, at + 1));
  return copy;
}
