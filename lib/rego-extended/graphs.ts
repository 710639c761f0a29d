import type { Builtin, BuiltinContext, RegoArray, Value } from "@sealpod/rego";
import { collection, define, isArray, object, RegoSet } from "@sealpod/rego";

/** Neighbours of a node: none for what is no collection, undefined for a node that the graph does not have. */
function neighboursOf(edges: Value | undefined): readonly Value[] | undefined {
  if (edges === undefined || isArray(edges)) return edges;
  return edges instanceof RegoSet ? edges.items() : [];
}

/**
 * Paths from the initial nodes, each to its end or to the node before one that was passed already. As in OPA, "passed" is
 * kept for all paths that begin with one edge of an initial node: not all simple paths are found, whose number could be
 * exponential.
 */
function reachablePaths(args: RegoArray, context: BuiltinContext): Value {
  const graph = object(args, 0);
  const paths = new RegoSet();
  const add = (path: readonly Value[]): void => {
    context.work(1 + path.length);
    context.allocate(16 + 8 * path.length);
    paths.add([...path]);
  };
  const walk = (root: Value, start: Value): void => {
    const passed = RegoSet.of([root]);
    const path: Value[] = [root];
    // Not recursive: the length of a path is the caller's choice.
    const open: { readonly node: Value; readonly neighbours: readonly Value[]; at: number }[] = [];
    const enter = (node: Value): void => {
      const neighbours = neighboursOf(graph.get(node));
      context.work(1);
      if (neighbours === undefined) {
        add(path);
        return;
      }
      path.push(node);
      open.push({ node, neighbours, at: 0 });
      if (neighbours.length === 0) add(path);
    };
    enter(start);
    for (;;) {
      const top = open.at(-1);
      if (top === undefined) return;
      const next = top.neighbours[top.at++];
      if (next === undefined) {
        open.pop();
        path.pop();
      } else if (passed.has(next)) add(path);
      else {
        passed.add(top.node);
        enter(next);
      }
    }
  };
  for (const root of collection(args, 1)) {
    const neighbours = neighboursOf(graph.get(root));
    if (neighbours === undefined) continue;
    if (neighbours.length === 0) add([root]);
    for (const neighbour of neighbours) walk(root, neighbour);
  }
  return paths;
}

/** Graphs given as an object from nodes to arrays or sets of nodes. */
export const graphBuiltins: readonly Builtin[] = [define("graph.reachable_paths", 2, reachablePaths)];
