import { encodeUtf8, sha256, toBase64, toHex } from "@sealpod/core";
import {
  formatProblem,
  type KubeObject,
  parseManifest,
  type Position,
  type Problem,
  readResources,
  type Resource,
  setAnnotations,
  type SourceFile,
  type Workload,
} from "@sealpod/kube";
import type { ImageSource } from "@sealpod/oci";
import { compile, RegoError } from "@sealpod/rego";
import { policyContainerOf } from "./container.ts";
import { ConfigSources } from "./environment.ts";
import { GenpolicyError } from "./errors.ts";
import { ImageMeasurer } from "./images.ts";
import { type LayerCache, MemoryLayerCache } from "./layer-cache.ts";
import type { PolicyContainer, PolicyData } from "./policy-data.ts";
import { encodePrettyJson, type PrintableJson } from "./pretty-json.ts";
import { AKS_PROFILE, type Profile } from "./profile.ts";
import { parseSettings, type Settings } from "./settings.ts";

/** Kubernetes' limit for all annotations of an object (apimachinery TotalAnnotationSizeLimitB). */
const MAX_ANNOTATIONS = 256 * 1024;

/** What policies are made from. */
export interface GenerateInput {
  /** YAML with workloads; it comes back annotated. */
  readonly manifest: SourceFile;
  /** YAML with further ConfigMaps and Secrets. */
  readonly configFiles?: readonly SourceFile[];
  /** Settings, parsed or as JSON text. */
  readonly settings: Settings | string;
  /** Text of the rules; it goes into the policy to the byte. */
  readonly rules: string;
  readonly images: ImageSource;
  readonly layerCache?: LayerCache;
  readonly profile?: Profile;
  /** Report unknown fields as warnings. */
  readonly silent?: boolean;
  /**
   * Prefixes of `runtimeClassName`. If there are any, Pods, Deployments, StatefulSets and DaemonSets with another runtime class,
   * or none, get no policy; the other kinds and items of a List do not look at it, as in the known tool.
   */
  readonly runtimeClassNames?: readonly string[];
  /** Takes one line per step that may take time. */
  readonly progress?: (message: string) => void;
}

/** The policy of one workload. */
export interface GeneratedPolicy {
  readonly object: KubeObject;
  readonly kind: string;
  readonly name: string;
  readonly policy: string;
  /** SHA-256 of the policy, hex: HOST_DATA of the pod's report. */
  readonly hostData: string;
  /** Value of the annotation: base64 of the policy. */
  readonly annotation: string;
}

/** What {@link generatePolicy} made. */
export interface GenerateResult {
  /** The manifest with the annotations set; every other byte as it was. */
  readonly yaml: string;
  /** In the order of the manifest. */
  readonly policies: readonly GeneratedPolicy[];
  readonly warnings: readonly Problem[];
}

/**
 * Makes a policy for each workload of a manifest and sets its annotation.
 * @throws {KubeError} ERR_KUBE_YAML, ERR_KUBE_LIMIT, ERR_KUBE_MANIFEST, ERR_KUBE_EDIT
 * @throws {GenpolicyError} ERR_GENPOLICY_SETTINGS, ERR_GENPOLICY_RULES, ERR_GENPOLICY_MANIFEST, ERR_GENPOLICY_NO_WORKLOAD, ERR_GENPOLICY_IMAGE
 */
export async function generatePolicy(input: GenerateInput): Promise<GenerateResult> {
  const settings = typeof input.settings === "string" ? parseSettings(input.settings) : input.settings;
  const profile = input.profile ?? AKS_PROFILE;
  checkRules(input.rules);
  const readOptions = { silent: input.silent === true };
  const manifest = parseManifest(input.manifest);
  const { resources, warnings: unknown } = readResources(manifest, readOptions);
  const extra = (input.configFiles ?? []).map((file) => readResources(parseManifest(file), readOptions));
  const workloads = resources.filter((resource) => resource.kind === "workload");
  if (workloads.length === 0) throw noWorkload(input.manifest, resources);

  const sources = new ConfigSources([...resources, ...extra.flatMap((list) => list.resources)]);
  const measurer = new ImageMeasurer(input.images, input.layerCache ?? new MemoryLayerCache(), input.progress);
  const warnings = [...unknown, ...extra.flatMap((list) => list.warnings)];
  const broken = lintRules(input.rules);
  if (broken !== undefined)
    warnings.push({ kind: "bad-value", position: { file: "rules.rego", line: 1, column: 1 }, path: "", message: `the rules do not compile: ${broken}` });
  const problems: Problem[] = [];
  const policies: GeneratedPolicy[] = [];
  for (const workload of workloads) {
    if (!runtimeClassMatches(workload, input.runtimeClassNames ?? [])) continue;
    const note =
      (list: Problem[]) =>
      (position: Position, message: string): void =>
        void list.push({ kind: "bad-value", position, path: workload.object.path, message });
    lint(workload, note(warnings));
    const containers = await containersOf(workload, { settings, profile, sources, measurer, report: note(problems), warn: note(warnings) });
    if (problems.length > 0) continue;
    const policy = `${input.rules}\npolicy_data := ${encodePrettyJson(policyDataOf(containers, settings))}`;
    const bytes = encodeUtf8(policy);
    const annotation = toBase64(bytes);
    const size = annotation.length + annotationsSize(workload);
    if (size > MAX_ANNOTATIONS)
      note(warnings)(workload.template.spec.at, `the pod's annotations take ${size} bytes with the policy, Kubernetes takes at most ${MAX_ANNOTATIONS}`);
    const name = workload.metadata.name ?? workload.metadata.generateName ?? "";
    policies.push({ object: workload.object, kind: workload.workload, name, policy, hostData: toHex(sha256(bytes)), annotation });
  }
  if (problems.length > 0) throw new GenpolicyError("ERR_GENPOLICY_MANIFEST", inOrder(problems));
  const yaml = setAnnotations(manifest, new Map(policies.map(({ object, annotation }) => [object, annotation])), profile.annotation);
  return { yaml, policies, warnings: inOrder(warnings) };
}

interface ContainersContext {
  readonly settings: Settings;
  readonly profile: Profile;
  readonly sources: ConfigSources;
  readonly measurer: ImageMeasurer;
  readonly report: (position: Position, message: string) => void;
  readonly warn: (position: Position, message: string) => void;
}

/** Pause container, init containers from the last to the first, containers (specs/genpolicy.md 2.5). */
async function containersOf(workload: Workload, context: ContainersContext): Promise<readonly PolicyContainer[]> {
  const { spec } = workload.template;
  const ordered = [undefined, ...spec.initContainers.toReversed(), ...spec.containers];
  const containers: PolicyContainer[] = [];
  for (const container of ordered) {
    const reference = container?.image ?? context.settings.pauseImage;
    const image = await context.measurer.measure(reference, container?.imageAt);
    containers.push(policyContainerOf({ ...context, workload, container, image }));
  }
  return containers;
}

function policyDataOf(containers: readonly PolicyContainer[], settings: Settings): PrintableJson {
  const data: PolicyData = { containers, common: settings.common, sandbox: { storages: settings.sandboxStorages }, request_defaults: settings.requestDefaults };
  return data as unknown as PrintableJson;
}

/** What the profile cannot express, and what is likely a mistake. */
function lint(workload: Workload, warn: (position: Position, message: string) => void): void {
  const { spec } = workload.template;
  for (const container of [...spec.initContainers, ...spec.containers]) {
    const name = container.image.slice(container.image.lastIndexOf("/") + 1);
    if (!container.image.includes("@") && (!name.includes(":") || name.endsWith(":latest"))) {
      warn(container.imageAt, `image ${JSON.stringify(container.image)} has the tag latest: the pod is refused as soon as the tag moves to other layers`);
    }
    if (container.volumeDevices.length > 0)
      warn(container.at, `container ${container.name}: profile aks has no rule for volumeDevices, the pod will be refused`);
  }
  if (spec.securityContext.sysctls.size > 0) warn(spec.securityContext.at, "profile aks has no rule for sysctls of a pod: the pod will be refused");
}

/**
 * The rules with an empty policy_data must compile, or no agent would take the policy. Only a warning: other engines know
 * functions that ours does not.
 */
function lintRules(rules: string): string | undefined {
  const modules = [{ name: "rules.rego", text: `${rules}\npolicy_data := {}` }];
  const failures = (["v1", "v0"] as const).map((version) => {
    try {
      compile(modules, { version });
      return undefined;
    } catch (error) {
      if (error instanceof RegoError) return error.message;
      throw error;
    }
  });
  return failures.includes(undefined) ? undefined : failures[0];
}

function checkRules(rules: string): void {
  if (/^[ \t]*package[ \t]+agent_policy[ \t]*(?:#.*)?\r?$/m.test(rules)) return;
  throw new GenpolicyError("ERR_GENPOLICY_RULES", "the rules have no line `package agent_policy`, which the agent asks for", {
    hint: "Pass a rules.rego with -p, or leave -p out to use the rules of sealpod.",
  });
}

function noWorkload(file: SourceFile, resources: readonly Resource[]): GenpolicyError {
  const found = resources.map(({ object }) => object);
  const first = found[0];
  const kinds = found.length === 0 ? "no Kubernetes object" : `only ${[...new Set(found.map(({ kind }) => kind))].join(", ")}`;
  const position = first === undefined ? { file: file.name, line: 1, column: 1 } : first.manifest.positionOf(first.node.start);
  const problem: Problem = { kind: "unsupported-kind", position, path: "", message: `nothing here makes pods: found ${kinds}` };
  return new GenpolicyError("ERR_GENPOLICY_NO_WORKLOAD", formatProblem(problem), {
    hint: "Pass the YAML of a Pod, Deployment, DaemonSet, ReplicaSet, ReplicationController, StatefulSet, Job or CronJob.",
  });
}

/** Kinds whose runtime class the known tool looks at. */
const FILTERED_KINDS: ReadonlySet<string> = new Set(["Pod", "Deployment", "StatefulSet", "DaemonSet"]);

function runtimeClassMatches(workload: Workload, prefixes: readonly string[]): boolean {
  if (prefixes.length === 0 || !FILTERED_KINDS.has(workload.workload) || workload.object.path !== "") return true;
  const name = workload.template.spec.runtimeClassName ?? "";
  return prefixes.some((prefix) => name.startsWith(prefix));
}

function annotationsSize(workload: Workload): number {
  let size = 0;
  for (const [key, value] of workload.template.metadata.annotations) {
    if (key !== AKS_PROFILE.annotation) size += Buffer.byteLength(key) + Buffer.byteLength(value);
  }
  return size;
}

function inOrder(problems: readonly Problem[]): readonly Problem[] {
  return [...problems].sort((a, b) => a.position.line - b.position.line || a.position.column - b.position.column);
}
