import type { Value } from "../values/index.ts";
import { isArray, RegoObject, RegoSet } from "../values/index.ts";
import type { Builtin } from "./builtin.ts";
import { collection, define, object } from "./builtin.ts";

function neighbours(graph: RegoObject, node: Value): readonly Value[] | undefined {
  const edges = graph.get(node);
  if (edges === undefined) return undefined;
  if (isArray(edges)) return edges;
  return edges instanceof RegoSet ? edges.items() : [];
}

/** Graphs given as an object from nodes to arrays or sets of nodes. */
export const graphBuiltins: readonly Builtin[] = [
  define("graph.reachable", 2, (args, context) => {
    const graph = object(args, 0);
    const waiting = [...collection(args, 1)];
    const found = new RegoSet();
    while (waiting.length > 0) {
      const node = waiting.pop()!;
      const edges = neighbours(graph, node);
      if (edges === undefined || found.has(node)) continue;
      context.work(1 + edges.length);
      context.allocate(16);
      found.add(node);
      waiting.push(...edges);
    }
    return found;
  }),
];
