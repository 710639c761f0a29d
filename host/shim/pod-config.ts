import { decodeUtf8, fromBase64, messageOf, type Logger } from "@sealpod/core";
import {
  AKS_LAYOUT,
  COCO_LAYOUT,
  type GuestLayout,
  type HostCapacity,
  machineSize,
  type MachineSize,
  sizingOf,
  specLimits,
  workloadLimits,
} from "@sealpod/sandbox";
import type { Bundle } from "./bundle.ts";
import type { ShimConfig } from "./config.ts";
import { ShimError } from "./errors.ts";
import { INITDATA_ANNOTATION, parseInitdata, type PodInitdata } from "./initdata.ts";
import { NO_HINTS, policyHints, type PolicyHints } from "./policy-hints.ts";

/** How a pod says what may be done in its guest (specs/runtime.md 3.4). */
export type PodPolicy =
  /** Not at all: the guest keeps the policy of its image. */
  | { readonly kind: "none" }
  /** Profile `aks`: HOST_DATA is the SHA-256 of the text. */
  | { readonly kind: "policy"; readonly text: string }
  /** Profile `coco`: HOST_DATA is the digest of the document. */
  | { readonly kind: "initdata"; readonly initdata: PodInitdata };

/** What the first container's bundle and the node's configuration make of a pod. */
export interface PodConfig {
  readonly policy: PodPolicy;
  readonly hints: PolicyHints;
  readonly layout: GuestLayout;
  readonly size: MachineSize;
  /** True if emptyDirs are disks of the host that the guest encrypts. */
  readonly encryptedEmptyDir: boolean;
}

/** Annotation that carries the policy in profile `aks`. */
export const POLICY_ANNOTATION = "io.katacontainers.config.agent.policy";

/** Annotations by which a pod may change its machine begin with this. */
const MACHINE_PREFIX = "io.katacontainers.config.hypervisor.";

/** Annotations that other shims take and this one does not begin with one of these. */
const OTHER_PREFIXES = ["io.katacontainers.config.agent.", "io.katacontainers.config.runtime.", "io.katacontainers.config_path"];

/** What sizingOf reads. */
const MACHINE_ANNOTATIONS: ReadonlySet<string> = new Set([`${MACHINE_PREFIX}default_memory`, `${MACHINE_PREFIX}default_vcpus`]);

/** Bytes of a policy: SetPolicy has to fit a ttRPC message, which has 4 MiB at most. */
const MAX_POLICY: number = 4 * 1024 * 1024 - 1024;

/**
 * What the pod of a first container is.
 * @param capacity what the node can give; undefined where the driver of machines enforces no size
 * @throws {ShimError} ERR_SHIM_POD
 * @throws {SandboxError} ERR_SANDBOX_SPEC, with `details.reason` "capacity" if the pod does not fit
 */
export function podConfig(bundle: Bundle, config: ShimConfig, capacity: HostCapacity | undefined, logger: Logger): PodConfig {
  const { annotations, role, network } = bundle;
  if (role.kind === "container") {
    throw new ShimError("ERR_SHIM_POD", `container ${bundle.id} belongs to pod ${role.sandboxId}, whose first container is not here`);
  }
  if (network.kind === "host") {
    throw new ShimError("ERR_SHIM_POD", "the pod wants the node's network, which a virtual machine cannot have", {
      hint: "Remove hostNetwork: true, or run the pod with another runtime class.",
    });
  }
  checkAnnotations(annotations, config.enableAnnotations, logger);
  const policy = podPolicy(annotations);
  const text = policy.kind === "policy" ? policy.text : policy.kind === "initdata" ? policy.initdata.policy : undefined;
  const hints = text === undefined ? NO_HINTS : policyHints(text);
  const named = Object.fromEntries(annotations);
  const sizing = sizingOf(config.sizing, named, config.enableAnnotations);
  const limits = role.kind === "single" ? specLimits(bundle.spec) : workloadLimits(named);
  return {
    policy,
    hints,
    layout: policy.kind === "initdata" ? COCO_LAYOUT : AKS_LAYOUT,
    size: machineSize(limits, sizing, capacity),
    // The policy's author has decided already, if there is one: of the two forms it allows one.
    encryptedEmptyDir: hints.encryptedEmptyDir ?? config.emptyDir === "encrypted",
  };
}

/**
 * The policy that the annotations bring.
 * @throws {ShimError} ERR_SHIM_POD
 */
export function podPolicy(annotations: ReadonlyMap<string, string>): PodPolicy {
  const policy = annotations.get(POLICY_ANNOTATION);
  const initdata = annotations.get(INITDATA_ANNOTATION);
  if (policy !== undefined && initdata !== undefined) {
    throw new ShimError("ERR_SHIM_POD", `the pod has annotation ${POLICY_ANNOTATION} and annotation ${INITDATA_ANNOTATION}: it proves itself by one of them`, {
      hint: "Remove the one whose profile your key store does not expect (sealpod genpolicy --profile aks or coco).",
    });
  }
  if (initdata !== undefined) return { kind: "initdata", initdata: parseInitdata(initdata) };
  return policy === undefined ? { kind: "none" } : { kind: "policy", text: decodePolicy(policy) };
}

function decodePolicy(annotation: string): string {
  // Go's decoder passes over line ends, which YAML's block texts have.
  const text = annotation.replaceAll(/[\r\n]/g, "");
  try {
    if (text.length > Math.ceil(MAX_POLICY / 3) * 4) throw new Error(`it has ${text.length} characters, more than ${MAX_POLICY} bytes in base64`);
    return decodeUtf8(fromBase64(text, "annotation"), "policy");
  } catch (cause) {
    throw new ShimError("ERR_SHIM_POD", `annotation ${POLICY_ANNOTATION} is no policy: ${messageOf(cause)}`, {
      cause,
      hint: "Generate it again: sealpod genpolicy.",
    });
  }
}

/** A pod's author who asks for another machine must not believe to have got it. */
function checkAnnotations(annotations: ReadonlyMap<string, string>, enabled: readonly string[], logger: Logger): void {
  for (const name of annotations.keys()) {
    if (name === INITDATA_ANNOTATION && !enabled.includes(INITDATA_ANNOTATION.slice(MACHINE_PREFIX.length))) {
      throw new ShimError("ERR_SHIM_POD", `the pod has annotation ${name}, and this node does not take it`, {
        hint: 'Add "cc_init_data" to enable_annotations in shim.toml, or generate the policy for the other generation (sealpod genpolicy --profile aks).',
      });
    }
    if (name.startsWith(MACHINE_PREFIX) && name !== INITDATA_ANNOTATION && !MACHINE_ANNOTATIONS.has(name)) {
      throw new ShimError("ERR_SHIM_POD", `annotation ${JSON.stringify(name.slice(0, 200))} asks for what this shim does not do`, {
        hint: `Remove it. Of ${MACHINE_PREFIX}* there are default_memory, default_vcpus and cc_init_data.`,
      });
    }
    if (name !== POLICY_ANNOTATION && OTHER_PREFIXES.some((prefix) => name.startsWith(prefix))) {
      logger.log("warn", "an annotation for another shim has no effect", { annotation: name.slice(0, 200) });
    }
  }
}
