import {
  type Container,
  formatPosition,
  formatProblem,
  KubeError,
  type KubeObject,
  type Manifest,
  parseManifest,
  type Problem,
  type ReadOptions,
  readResources,
  type Resource,
  type ResourceList,
  setAnnotations,
  type SourceFile,
  type Workload,
} from "@sealpod/kube";
import { ConfigSources } from "./config-sources.ts";
import { policyContainerOf } from "./container.ts";
import { GenpolicyError } from "./errors.ts";
import type { ImageMeasurer, MeasuredImage } from "./images.ts";
import { DEFAULT_INITDATA, type InitdataTemplate } from "./initdata.ts";
import { checkRules, lintImages, lintRules } from "./lint.ts";
import type { PolicyContainer, PolicyData } from "./policy-data.ts";
import { encodePrettyJson, type PrintableJson } from "./pretty-json.ts";
import { inOrder, ProblemList } from "./problems.ts";
import { AKS_PROFILE, behaviourOf, type Profile } from "./profile.ts";
import { parseSettings, type Settings } from "./settings.ts";

/** Kubernetes' limit for all annotations of an object (apimachinery TotalAnnotationSizeLimitB). */
const MAX_ANNOTATIONS = 256 * 1024;

/** What policies are made from. */
export interface GenerateInput {
  /** YAML with workloads; it comes back annotated. */
  readonly manifest: SourceFile;
  /** YAML with further ConfigMaps and Secrets. */
  readonly configFiles?: readonly SourceFile[];
  /** The generation; aks if it is absent. */
  readonly profile?: Profile;
  /** Settings, read or as JSON text; they must be of the profile's generation. */
  readonly settings: Settings | string;
  /** Text of the rules; it goes into the policy to the byte. */
  readonly rules: string;
  /** Makes one small text of rules and data. Without it the policy is the rules, `policy_data := ` and all of the data. */
  readonly shrink?: (rules: string, data: PrintableJson) => string;
  /** Must measure layers in the settings' `layerFormat`. */
  readonly measurer: Pick<ImageMeasurer, "measure">;
  /** Initdata that the policy is put into, for a profile that uses it. */
  readonly initdata?: InitdataTemplate;
  /** Report unknown fields as warnings. */
  readonly silent?: boolean;
  /** List ephemeral containers too. */
  readonly includeEphemeralContainers?: boolean;
  /**
   * Prefixes of `runtimeClassName`. If there are any, Pods, Deployments, StatefulSets and DaemonSets with another runtime class,
   * or none, get no policy; the other kinds and items of a List do not look at it, as in the known tool.
   */
  readonly runtimeClassNames?: readonly string[];
}

/** The policy of one workload. */
export interface GeneratedPolicy {
  readonly object: KubeObject;
  readonly kind: string;
  readonly name: string;
  readonly policy: string;
  /** The document that is measured: the policy's text, or initdata with the policy in it. */
  readonly document: Uint8Array;
  /** Hex of 32 bytes: HOST_DATA of the pod's report. */
  readonly hostData: string;
  /** Value of the annotation. */
  readonly annotation: string;
}

/** What {@link generatePolicy} made. */
export interface GenerateResult {
  /** All objects of the manifest, in order. */
  readonly objects: readonly KubeObject[];
  /** The manifest with the annotations set; every other byte as it was. */
  readonly yaml: string;
  /** In the order of the manifest. */
  readonly policies: readonly GeneratedPolicy[];
  readonly warnings: readonly Problem[];
}

/**
 * Makes a policy for each workload of a manifest and sets its annotation. What is wrong with the files is collected and thrown as
 * one error: ERR_KUBE_MANIFEST if any of it is a fault of the YAML itself, also with what a policy cannot have beside it.
 * @throws {KubeError} ERR_KUBE_YAML, ERR_KUBE_LIMIT, ERR_KUBE_MANIFEST, ERR_KUBE_EDIT
 * @throws {GenpolicyError} ERR_GENPOLICY_SETTINGS, ERR_GENPOLICY_RULES, ERR_GENPOLICY_MANIFEST, ERR_GENPOLICY_NO_WORKLOAD, ERR_GENPOLICY_IMAGE
 */
export async function generatePolicy(input: GenerateInput): Promise<GenerateResult> {
  const profile = input.profile ?? AKS_PROFILE;
  const settings = typeof input.settings === "string" ? parseSettings(input.settings, "genpolicy-settings.json", profile) : input.settings;
  const behaviour = behaviourOf(profile, settings);
  checkRules(input.rules);
  const manifest = parseManifest(input.manifest);
  const files = [manifest, ...(input.configFiles ?? []).map((file) => parseManifest(file))];
  const { lists, failure: unread } = readAll(files, { silent: input.silent === true });
  const [read, ...extra] = lists;
  const resources = read?.resources ?? [];
  const workloads = resources.filter((resource) => resource.kind === "workload");
  if (workloads.length === 0) throw unread ?? noWorkload(input.manifest, resources);

  const warnings = new ProblemList();
  for (const warning of [read, ...extra].flatMap((list) => list?.warnings ?? [])) warnings.add(warning);
  const broken = input.shrink === undefined ? lintRules(input.rules) : undefined;
  if (broken !== undefined)
    warnings.add({ kind: "bad-value", position: { file: "rules.rego", line: 1, column: 1 }, path: "", message: `the rules do not compile: ${broken}` });

  const sources = new ConfigSources([...resources, ...extra.flatMap((list) => list.resources)], behaviour.lookup);
  const wanted = workloads.filter((workload) => runtimeClassMatches(workload, input.runtimeClassNames ?? []));
  const problems = new ProblemList();
  // Nobody waits for downloads to hear of a misspelled field.
  const measurer = unread === undefined ? input.measurer : NO_IMAGES;
  const { images, failure } = await measureImages(wanted, { ...input, measurer }, settings, problems);
  const ofImages = problems.size;
  const policies: GeneratedPolicy[] = [];
  for (const workload of wanted) {
    const { object, template, metadata } = workload;
    const warn = warnings.reporter(object);
    const report = problems.reporter(object);
    lintImages(workload, warn);
    behaviour.check(workload, report, warn);
    if (template.spec.ephemeralContainers.length > 0 && input.includeEphemeralContainers !== true)
      warn(template.spec.at, "ephemeral containers are not in the policy: they will be refused");
    const containers = containersOf(workload, input.includeEphemeralContainers === true).flatMap((container): PolicyContainer | readonly [] => {
      const image = images.get(container?.image ?? settings.pauseImage);
      if (image === undefined) return [];
      const namespace = metadata.namespace ?? profile.defaultNamespace;
      const containerSettings = container === undefined ? settings.pauseContainer : settings.otherContainer;
      const context = { workload, container, image, settings, containerSettings, namespace, sources, report, warn };
      return policyContainerOf(context, behaviour, profile.strippedAnnotations);
    });
    if (problems.size > 0 || unread !== undefined) continue;
    const data = policyDataOf(containers, settings);
    const policy = input.shrink === undefined ? `${input.rules}\npolicy_data := ${encodePrettyJson(data)}` : input.shrink(input.rules, data);
    const delivery = profile.deliver(policy, input.initdata ?? DEFAULT_INITDATA);
    const size = delivery.annotation.length + annotationsSize(workload, profile);
    if (size > MAX_ANNOTATIONS) warn(template.spec.at, `the pod's annotations take ${size} bytes with the policy, Kubernetes takes at most ${MAX_ANNOTATIONS}`);
    policies.push({ object, kind: workload.workload, name: metadata.name ?? metadata.generateName ?? "", policy, ...delivery });
  }
  if (unread !== undefined) throw problems.size === 0 ? unread : withProblems(unread, [...problems.inOrder(), ...unread.problems]);
  if (problems.size > 0) {
    const hint = failure?.hint === undefined ? {} : { hint: failure.hint };
    throw new GenpolicyError(problems.size === ofImages ? "ERR_GENPOLICY_IMAGE" : "ERR_GENPOLICY_MANIFEST", problems.inOrder(), { cause: failure, ...hint });
  }
  const yaml = setAnnotations(manifest, new Map(policies.map(({ object, annotation }) => [object, annotation])), profile.annotation);
  return { objects: manifest.objects, yaml, policies, warnings: warnings.inOrder() };
}

/** Stands in for images that are not looked at: nothing about it gives a problem of its own. */
const NO_IMAGES: GenerateInput["measurer"] = {
  async measure(reference) {
    return Promise.resolve({
      reference,
      manifestDigest: "",
      config: {
        user: "65534:65534",
        env: [],
        entrypoint: ["/"],
        cmd: [],
        workingDir: "",
        tty: false,
        volumes: [],
        diffIds: [],
        architecture: "",
        os: "",
      },
      layers: [],
      passwd: "",
      group: "",
      linkedUserFiles: [],
    });
  },
};

/** Resources of all files, by file; with a failure those that can be looked at nevertheless, so that it need not be the only one. */
function readAll(manifests: readonly Manifest[], options: ReadOptions): { readonly lists: readonly ResourceList[]; readonly failure: KubeError | undefined } {
  const failures: KubeError[] = [];
  const lists = manifests.map((manifest): ResourceList | undefined => {
    try {
      return readResources(manifest, options);
    } catch (error) {
      if (!(error instanceof KubeError) || error.code !== "ERR_KUBE_MANIFEST") throw error;
      failures.push(error);
      return error.sound;
    }
  });
  const [first] = failures;
  const all = failures.flatMap(({ problems }) => problems);
  const sound = lists.filter((list) => list !== undefined);
  return {
    // Where a file is not known well enough, what the others refer to may be in it.
    lists: sound.length === manifests.length ? sound : [],
    failure: first === undefined ? undefined : withProblems(first, all),
  };
}

/** A failure with all of these problems, file by file in the order in which the files come. */
function withProblems({ hint }: KubeError, problems: readonly Problem[]): KubeError {
  const files = Map.groupBy(problems, ({ position }) => position.file);
  const unknown = hint !== undefined && problems.every(({ kind }) => kind === "unknown-field");
  return new KubeError(
    "ERR_KUBE_MANIFEST",
    [...files.values()].flatMap((list) => inOrder(list)),
    unknown ? { hint } : {},
  );
}

/** Undefined stands for the pause container. Init containers come last to first, before the others (specs/genpolicy.md 2.5). */
function containersOf({ template: { spec } }: Workload, ephemeral: boolean): readonly (Container | undefined)[] {
  return [undefined, ...spec.initContainers.toReversed(), ...spec.containers, ...(ephemeral ? spec.ephemeralContainers : [])];
}

/** All images by reference, and the first failure; each failure is a problem at each place that names the image. */
async function measureImages(
  workloads: readonly Workload[],
  input: GenerateInput,
  settings: Settings,
  problems: ProblemList,
): Promise<{ readonly images: ReadonlyMap<string, MeasuredImage>; readonly failure: GenpolicyError | undefined }> {
  const wishes = workloads.flatMap((workload) =>
    containersOf(workload, input.includeEphemeralContainers === true).map((container) => ({
      workload,
      container,
      reference: container?.image ?? settings.pauseImage,
    })),
  );
  const results = await Promise.allSettled(wishes.map(async ({ container, reference }) => input.measurer.measure(reference, container?.imageAt)));
  const images = new Map<string, MeasuredImage>();
  let failure: GenpolicyError | undefined;
  for (const [index, result] of results.entries()) {
    const wish = wishes[index];
    if (wish === undefined) continue;
    if (result.status === "fulfilled") {
      images.set(wish.reference, result.value);
      continue;
    }
    const error: unknown = result.reason;
    if (!(error instanceof GenpolicyError) || error.code !== "ERR_GENPOLICY_IMAGE") throw error;
    // Images whose layers were not read any more reject with the failure of another one.
    const { image = wish.reference } = error.details;
    if (image !== wish.reference) continue;
    const { workload, container } = wish;
    const position = container?.imageAt ?? workload.template.spec.at;
    const prefix = `${formatPosition(position)}: `;
    const text = error.message.startsWith(prefix) ? error.message.slice(prefix.length) : error.message;
    problems.reporter(workload.object)(position, text);
    failure ??= error;
  }
  return { images, failure };
}

function policyDataOf(containers: readonly PolicyContainer[], settings: Settings): PrintableJson {
  const { vfio, clusterConfig } = settings;
  const data: PolicyData = {
    containers,
    common: settings.common,
    sandbox: { storages: settings.sandboxStorages },
    request_defaults: settings.requestDefaults,
    devices: vfio === undefined ? undefined : { vfio: { device_path: vfio.devicePath, nvidia: {} } },
    cluster_config: clusterConfig,
  };
  return data as unknown as PrintableJson;
}

function noWorkload(file: SourceFile, resources: readonly Resource[]): GenpolicyError {
  const [first] = resources;
  const position = first === undefined ? { file: file.name, line: 1, column: 1 } : first.object.manifest.positionOf(first.object.node.start);
  const kinds = [...new Set(resources.map(({ object }) => object.kind))];
  const message = `nothing here makes pods: found ${kinds.length === 0 ? "no Kubernetes object" : `only ${kinds.join(", ")}`}`;
  return new GenpolicyError("ERR_GENPOLICY_NO_WORKLOAD", formatProblem({ kind: "unsupported-kind", position, path: "", message }), {
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

function annotationsSize({ template }: Workload, profile: Profile): number {
  let size = 0;
  for (const [key, value] of template.metadata.annotations) {
    if (key !== profile.annotation) size += Buffer.byteLength(key) + Buffer.byteLength(value);
  }
  return size;
}
