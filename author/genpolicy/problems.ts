import { type KubeObject, type Position, type Problem, type YamlNode, contentOf } from "@sealpod/kube";
import type { Report } from "./context.ts";

/** Problems of a file, each once, in the order of the file. */
export class ProblemList {
  readonly #problems = new Map<string, Problem>();

  get size(): number {
    return this.#problems.size;
  }

  /** Takes problems of an object; their paths are found by their places. */
  reporter(object: KubeObject): Report {
    return (position, message) => this.add({ kind: "bad-value", position, path: pathAt(object, position), message });
  }

  add(problem: Problem): void {
    const { position, message } = problem;
    this.#problems.set(JSON.stringify([position.file, position.line, position.column, message]), problem);
  }

  inOrder(): readonly Problem[] {
    return inOrder([...this.#problems.values()]);
  }
}

/** Problems sorted by their places. */
export function inOrder(problems: readonly Problem[]): readonly Problem[] {
  return problems.toSorted((a, b) => a.position.line - b.position.line || a.position.column - b.position.column);
}

/** Path of the first node that starts at a place, such as `spec.containers[0].env[1]`; the object's own path if there is none. */
function pathAt(object: KubeObject, position: Position): string {
  const { manifest, node, path } = object;
  if (position.file !== manifest.file.name) return path;
  const starts = (child: YamlNode): boolean => {
    const at = manifest.positionOf(child.start);
    return at.line === position.line && at.column === position.column;
  };
  const find = (parent: YamlNode, prefix: string): string | undefined => {
    const content = contentOf(parent);
    const children: readonly (readonly [YamlNode, string])[] =
      content.kind === "mapping"
        ? content.entries.map(({ key, value }) => [value, prefix === "" ? key.text : `${prefix}.${key.text}`])
        : content.kind === "sequence"
          ? content.items.map((item, index) => [item, `${prefix}[${index}]`])
          : [];
    for (const [child, step] of children) {
      const found = starts(child) ? step : find(child, step);
      if (found !== undefined) return found;
    }
    return undefined;
  };
  return find(node, path) ?? path;
}
