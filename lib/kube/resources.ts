import { readClaim, readConfigMap, readSecret } from "./config.ts";
import { KubeError } from "./errors.ts";
import { Cursor, type Fields, type ProblemSink } from "./fields.ts";
import { expectedGroup, groupOf, isKubernetesKind, WORKLOAD_KINDS } from "./kinds.ts";
import { DEFAULT_MANIFEST_LIMITS, type KubeObject, type Manifest, type ManifestLimits, scanManifest, type SourceFile } from "./manifest.ts";
import type { Resource } from "./model.ts";
import { byPosition, MAX_PROBLEMS, type Problem } from "./problem.ts";
import { readWorkload } from "./workloads.ts";
import { contentOf, entryOf, valueOf, type YamlContent, type YamlNode } from "./yaml-node.ts";

/** Options of {@link readResources}. */
export interface ReadOptions {
  /** Report unknown fields as warnings. */
  readonly silent?: boolean;
}

/** What a manifest holds. */
export interface ResourceList {
  readonly resources: readonly Resource[];
  /** Unknown fields that `silent` let pass, and what a confidential guest or an API server would not do; in the order of the file. */
  readonly warnings: readonly Problem[];
}

/**
 * Reads all objects of a manifest into the types of `model.ts`. Unknown fields, wrong types, missing fields and unsupported
 * kinds are collected and thrown as one error.
 * @throws {KubeError} ERR_KUBE_MANIFEST with every problem
 */
export function readResources(manifest: Manifest, options: ReadOptions = {}): ResourceList {
  return readAll(manifest, [], options);
}

/**
 * Parses a text and reads its objects. The same as `parseManifest` and {@link readResources}, but what is wrong with some
 * documents does not hide what is wrong with the others.
 * @throws {KubeError} ERR_KUBE_YAML, ERR_KUBE_LIMIT, ERR_KUBE_MANIFEST with every problem of every document
 */
export function readManifest(
  file: SourceFile,
  options: ReadOptions = {},
  limits: ManifestLimits = DEFAULT_MANIFEST_LIMITS,
): ResourceList & { readonly manifest: Manifest } {
  const { manifest, problems } = scanManifest(file, limits);
  return { manifest, ...readAll(manifest, problems, options) };
}

function readAll(manifest: Manifest, found: readonly Problem[], options: ReadOptions): ResourceList {
  const errors: Problem[] = [];
  const warnings: Problem[] = [];
  const sink: ProblemSink = {
    positionOf: (offset) => manifest.positionOf(offset),
    report: (problem) => {
      if (options.silent === true && problem.kind === "unknown-field") sink.warn(problem);
      else if (errors.push(problem) >= MAX_PROBLEMS) throw errorOf(errors);
    },
    warn: (problem) => {
      if (warnings.length < MAX_PROBLEMS) warnings.push(problem);
    },
  };
  for (const problem of found) sink.report(problem);
  const resources: Resource[] = [];
  let isComplete = found.length === 0;
  for (const object of manifest.objects) {
    const before = errors.length;
    const resource = readResource(object, sink);
    if (errors.slice(before).every(({ kind }) => kind === "unknown-field")) resources.push(...(resource === undefined ? [] : [resource]));
    // Workloads refer to ConfigMaps, Secrets and claims, nothing refers to a workload.
    else if (resource !== undefined && resource.kind !== "workload") isComplete = false;
  }
  const list: ResourceList = { resources, warnings: warnings.sort(byPosition) };
  if (errors.length > 0) throw errorOf(errors, isComplete ? list : undefined);
  return list;
}

function errorOf(problems: readonly Problem[], sound?: ResourceList): KubeError {
  const sorted = [...problems].sort(byPosition);
  if (sorted.some(({ kind }) => kind === "syntax")) return new KubeError("ERR_KUBE_YAML", sorted);
  const unknown = sorted.every(({ kind }) => kind === "unknown-field");
  return new KubeError("ERR_KUBE_MANIFEST", sorted, {
    sound,
    ...(unknown ? { hint: "Remove these fields, or pass -s to leave them out of the policy." } : {}),
  });
}

/** Kinds of Kubernetes whose fields are read; the others pass. */
const READERS: Readonly<Record<string, (object: KubeObject, fields: Fields, at: Cursor) => Resource>> = {
  ...Object.fromEntries(WORKLOAD_KINDS.map((kind) => [kind, (object: KubeObject, fields: Fields) => readWorkload(object, kind, fields)] as const)),
  ConfigMap: readConfigMap,
  Secret: readSecret,
  PersistentVolumeClaim: readClaim,
};

function readResource(object: KubeObject, sink: ProblemSink): Resource | undefined {
  const at = new Cursor(object.node, object.path, sink);
  const ofKubernetes = isKubernetesKind(object.kind, object.apiVersion);
  const reader = ofKubernetes && Object.hasOwn(READERS, object.kind) ? READERS[object.kind] : undefined;
  if (reader === undefined) return passThrough(object, at, ofKubernetes);
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("apiVersion", "kind", "status");
  checkGroup(object, fields);
  const resource = reader(object, fields, at);
  fields.done();
  return resource;
}

/** The known tool never looks at `apiVersion`, the API server does. */
function checkGroup({ kind, apiVersion }: KubeObject, fields: Fields): void {
  const expected = expectedGroup(kind) ?? "";
  if (groupOf(apiVersion) === expected) return;
  fields
    .find("apiVersion")
    ?.warn("bad-value", `${kind} is of ${expected === "" ? "v1" : `${expected}/v1`}, found ${JSON.stringify(apiVersion)}: the API server refuses it`);
}

function passThrough(object: KubeObject, at: Cursor, ofKubernetes: boolean): Resource | undefined {
  if (ofKubernetes) return { kind: "pass-through", object };
  // Somebody's own API may have a kind that is called as one of Kubernetes.
  const kind = JSON.stringify(expectedGroup(object.kind) === undefined ? object.kind : `${object.kind} of ${object.apiVersion}`);
  const pods = findPods(object.node);
  if (pods !== undefined) {
    return pods.path
      .reduce((place, name) => place.at(pods.node, name), at)
      .refuse(
        "unsupported-kind",
        `kind ${kind} makes pods in a way that is not known here: make the policy for one of ${WORKLOAD_KINDS.join(", ")} with the same pod, and copy its annotation to the metadata of this pod template`,
      );
  }
  at.at(entryOf(object.node, "kind")?.value ?? object.node, "kind").warn(
    "unsupported-kind",
    `kind ${kind} is not known here and left as it is: if it makes pods, they get no policy`,
  );
  return { kind: "pass-through", object };
}

/** A node on the way down from an object. */
interface Step {
  readonly node: YamlContent;
  readonly name: string;
  readonly parent: Step | undefined;
}

/**
 * `containers` of a pod template somewhere in an object of a kind that is not known. They stand in the `spec` of something that
 * is called template; elsewhere, as in the rules of a Kyverno policy, they are about the pods of others.
 */
function findPods(root: YamlNode): { readonly path: readonly string[]; readonly node: YamlNode } | undefined {
  const stack: Step[] = [{ node: contentOf(root), name: "", parent: undefined }];
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    const { node } = top;
    if (node.kind === "sequence") for (const [index, item] of node.items.entries()) stack.push({ node: contentOf(item), name: `[${index}]`, parent: top });
    if (node.kind !== "mapping") continue;
    const containers = entryOf(node, "containers")?.value;
    if (containers !== undefined && isTemplateSpec(top) && holdsContainers(contentOf(containers))) {
      const path = ["containers"];
      for (let step: Step = top; step.parent !== undefined; step = step.parent) path.unshift(step.name);
      return { path, node: containers };
    }
    for (const { key, value } of node.entries) stack.push({ node: contentOf(value), name: key.text, parent: top });
  }
  return undefined;
}

function isTemplateSpec({ name, parent }: Step): boolean {
  return name === "spec" && parent?.name.toLowerCase().endsWith("template") === true;
}

function holdsContainers(node: YamlContent): boolean {
  if (node.kind !== "sequence") return false;
  return node.items.some((item) => {
    const content = contentOf(item);
    const image = content.kind === "mapping" ? valueOf(content, "image") : undefined;
    // No reference has such characters: this is a pattern that the images of others are compared with.
    return image !== undefined && !(image.kind === "scalar" && /[*?!|]/.test(image.text));
  });
}
