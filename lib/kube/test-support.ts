import { KubeError, parseManifest, type PodSpec, readManifest, readResources, type ReadOptions, type Workload } from "./index.ts";

/** The resources of a text called f.yaml. */
export function read(text: string, options?: ReadOptions): ReturnType<typeof readResources> {
  return readResources(parseManifest({ name: "f.yaml", text }), options);
}

/** One line per problem; empty if there is none. Anything but a KubeError escapes. */
export function problemsOf(text: string, options?: ReadOptions): readonly string[] {
  try {
    readManifest({ name: "f.yaml", text }, options);
  } catch (error) {
    if (error instanceof KubeError) return error.message.split("\n");
    throw error;
  }
  return [];
}

/** One line per warning: line:column path: message. */
export function warningsOf(text: string, options?: ReadOptions): readonly string[] {
  return read(text, options).warnings.map(({ position, path, message }) => `${position.line}:${position.column} ${path}: ${message}`);
}

/** The first object, which must be a workload. */
export function workloadOf(text: string): Workload {
  const resource = read(text).resources[0];
  if (resource?.kind !== "workload") throw new Error("no workload");
  return resource;
}

/** The pod of the first object. */
export function specOf(text: string): PodSpec {
  return workloadOf(text).template.spec;
}

/** A Pod whose spec starts at line 5. */
export function pod(spec: string): string {
  return `apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n${spec}`;
}

/** A Pod with one container whose further fields start at line 8, indented by four. */
export function container(fields: string): string {
  return pod(`  containers:\n  - name: c\n    image: i\n${fields}`);
}
