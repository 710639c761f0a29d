import { newUuid, type Random } from "@sealpod/core";
import { KubeletError } from "./errors.ts";
import { assertDnsSubdomain, generatedName, MAX_GENERATED_BASE, randomBelow, safeString } from "./names.ts";
import type { PodContainer, PodTemplate } from "./pod.ts";

/** Kinds of workload that make pods. */
export type WorkloadKind = "Pod" | "Deployment" | "ReplicaSet" | "ReplicationController" | "DaemonSet" | "StatefulSet" | "Job" | "CronJob";

/** An object with a pod template, as far as it decides what its first pod looks like. */
export interface PodOwner {
  readonly kind: WorkloadKind;
  /** One of the two is given. */
  readonly name?: string;
  readonly generateName?: string;
  readonly template: PodTemplate;
  /** StatefulSet: the service of its pods' domain, the first ordinal, and the names of its claim templates. */
  readonly serviceName?: string;
  readonly firstOrdinal?: number;
  readonly volumeClaims?: readonly string[];
  /** Job and the jobs of a CronJob: pods are told their number. */
  readonly indexed?: boolean;
}

/** The first pod that a controller makes. */
export interface OwnedPod {
  readonly name: string;
  readonly template: PodTemplate;
}

/** A pod template's hash comes out as up to ten characters of the safe alphabet, most often as nine or ten. */
const HASH_LENGTH = 10;

/** Minutes since 1970 of these years have eight digits: the suffix of a CronJob's job. */
const FIRST_MINUTE = 26_000_000;

const INDEX_KEY = "batch.kubernetes.io/job-completion-index";
const INDEX_VARIABLE = "JOB_COMPLETION_INDEX";

/**
 * The first pod of a workload, with the name that the controllers give it (`nginx-deployment-5d59d67564-x2lvq`) and what they add to the
 * template: labels, annotations, host name, variables.
 * @throws {KubeletError} ERR_KUBELET_INVALID_POD
 */
export function firstPod(owner: PodOwner, random: Random): OwnedPod {
  const { kind, template } = owner;
  const own = owner.name ?? (owner.generateName === undefined ? "" : generatedName(owner.generateName, random));
  const generated = (base: string, labels: Readonly<Record<string, string>> = {}): OwnedPod => generatedPod(base, labelled(template, labels), random);
  assertDnsSubdomain(own, `${kind} name`);
  const hash = (): string => safeString(HASH_LENGTH, random);
  switch (kind) {
    case "Pod":
      return { name: own, template: withGenerateName(template, owner.name === undefined ? owner.generateName : undefined) };
    case "ReplicaSet":
    case "ReplicationController":
      return generated(`${own}-`);
    case "Deployment": {
      const templateHash = hash();
      return generated(`${own}-${templateHash}-`, { "pod-template-hash": templateHash });
    }
    case "DaemonSet": {
      const labels = { "controller-revision-hash": hash(), "pod-template-generation": "1" };
      return generated(`${own}-`, labels);
    }
    case "StatefulSet":
      return statefulPod(owner, own, hash());
    case "Job":
      return jobPod(owner, own, random);
    case "CronJob":
      // The job's suffix is the minute that it was due; any of these years names it.
      return jobPod(owner, `${own}-${FIRST_MINUTE + randomBelow(10_000_000, random)}`, random);
  }
}

function statefulPod({ template, serviceName, firstOrdinal = 0, volumeClaims = [] }: PodOwner, own: string, hash: string): OwnedPod {
  const name = `${own}-${firstOrdinal}`;
  const labels = {
    "apps.kubernetes.io/pod-index": String(firstOrdinal),
    "controller-revision-hash": `${own}-${hash}`,
    "statefulset.kubernetes.io/pod-name": name,
  };
  const { spec } = template;
  // A claim takes the place of a volume of its name.
  const claims = volumeClaims.map((claim) => ({ name: claim, persistentVolumeClaim: { claimName: `${claim}-${name}` } }));
  const volumes = [...(spec.volumes ?? []).filter((volume) => !volumeClaims.includes(volume.name)), ...claims];
  const identified = { ...spec, volumes, hostname: name, ...(serviceName === undefined ? {} : { subdomain: serviceName }) };
  return { name, template: withGenerateName(labelled({ ...template, spec: identified }, labels), undefined) };
}

function jobPod({ template, indexed = false }: PodOwner, job: string, random: Random): OwnedPod {
  const uid = newUuid(random);
  const labels = { "batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": job, "controller-uid": uid, "job-name": job };
  if (!indexed) return generatedPod(`${job}-`, labelled(template, labels), random);
  const told = labelled(template, { ...labels, [INDEX_KEY]: "0" });
  const { spec, metadata } = told;
  if (`${job}-0`.length > 63) {
    throw new KubeletError("ERR_KUBELET_INVALID_POD", `job ${job}: the host names of its pods are longer than 63 characters`, {
      hint: "Give it a shorter name.",
    });
  }
  return generatedPod(
    `${job.slice(0, MAX_GENERATED_BASE - 3)}-0-`,
    {
      ...told,
      metadata: { ...metadata, annotations: { ...metadata?.annotations, [INDEX_KEY]: "0" } },
      spec: {
        ...spec,
        hostname: `${job}-0`,
        containers: spec.containers.map(withIndex),
        ...(spec.initContainers === undefined ? {} : { initContainers: spec.initContainers.map(withIndex) }),
      },
    },
    random,
  );
}

/** A pod of whose name the API server is given the prefix; the prefix stays in its metadata. */
function generatedPod(base: string, template: PodTemplate, random: Random): OwnedPod {
  return { name: generatedName(base, random), template: withGenerateName(template, base) };
}

function withGenerateName(template: PodTemplate, generateName: string | undefined): PodTemplate {
  const { generateName: _ofTemplate, ...metadata } = template.metadata ?? {};
  return { ...template, metadata: generateName === undefined ? metadata : { ...metadata, generateName } };
}

function withIndex(container: PodContainer): PodContainer {
  const env = container.env ?? [];
  if (env.some((entry) => entry.name === INDEX_VARIABLE)) return container;
  return { ...container, env: [...env, { name: INDEX_VARIABLE, valueFrom: { fieldRef: { fieldPath: `metadata.labels['${INDEX_KEY}']` } } }] };
}

function labelled(template: PodTemplate, labels: Readonly<Record<string, string>>): PodTemplate {
  return { ...template, metadata: { ...template.metadata, labels: { ...template.metadata?.labels, ...labels } } };
}
