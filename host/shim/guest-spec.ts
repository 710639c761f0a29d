import { asArray, asObject, type JsonObject } from "@sealpod/core";
import type { Bundle } from "./bundle.ts";

/** What the guest is told otherwise than containerd wrote it. */
export interface GuestSpecOptions {
  /** Version of the specification; containerd's own if undefined. */
  readonly ociVersion: string | undefined;
  /** True leaves the container's CPU limit out. */
  readonly withoutCpuLimit: boolean;
}

/**
 * Where containerd keeps its bundles in Kubernetes: the text that policies have. Other distributions of containerd have other directories (k3s,
 * tests), and the guest has none of them: all that it takes from it is the id at its end.
 */
const POLICY_BUNDLES = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/** By which nerdctl finds a sandbox's network; shims add it, and policies of other tools want it (specs/runtime.md 5.4). */
const NETWORK_ANNOTATION = "nerdctl/network-namespace";

/** The form of it that policies allow: that of namespaces which CRI makes. Ours do not ask for it, so one of another form is left out. */
const CRI_NAMESPACE = /^\/var\/run\/netns\/cni(?:test)?-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The bundle's path as policies want to see it. */
export function policyBundle({ id }: Bundle): string {
  return `${POLICY_BUNDLES}/${id}`;
}

/**
 * A container's specification as it is the same under every version of containerd: a policy is made once, for whatever node the pod comes to.
 *
 * - `ociVersion` is what the policy names. It says which containerd wrote the text (1.6: 1.0.2-dev; 1.7: 1.1.0, Debian's 1.2.0) and nothing about
 *   the container: the agent writes a specification of its own.
 * - The pause container gets no `/etc/resolv.conf`: it resolves no names, and containerd 1.6 and 1.7 mount it with different options.
 * - `linux.seccomp` goes no further than here (constrainSpec of @sealpod/sandbox leaves it out): generated policies allow none, since what the
 *   node's operator thinks of system calls protects the node's kernel, and this one is the guest's.
 */
export function guestSpec(bundle: Bundle, { ociVersion, withoutCpuLimit }: GuestSpecOptions): JsonObject {
  const { spec, role, network } = bundle;
  const annotations =
    role.kind !== "container" && network.kind === "path" && CRI_NAMESPACE.test(network.path)
      ? { ...asObject(spec["annotations"]), [NETWORK_ANNOTATION]: network.path }
      : spec["annotations"];
  return {
    ...spec,
    ...(ociVersion === undefined ? {} : { ociVersion }),
    ...(annotations === undefined ? {} : { annotations }),
    ...(role.kind === "sandbox" ? { mounts: withoutResolvConf(spec) } : {}),
    ...(withoutCpuLimit ? { linux: withoutCpuLimitOf(spec) } : {}),
  };
}

function withoutResolvConf(spec: JsonObject): JsonObject["mounts"] & object {
  return (asArray(spec["mounts"]) ?? []).filter((mount) => asObject(mount)?.["destination"] !== "/etc/resolv.conf");
}

function withoutCpuLimitOf(spec: JsonObject): JsonObject {
  const linux = asObject(spec["linux"]) ?? {};
  const resources = asObject(linux["resources"]);
  return resources === undefined ? linux : { ...linux, resources: withoutCpuQuota(resources) };
}

/** Resources (`linux.resources`) without a limit of processor time. Shares stay: they say how containers divide the processor, not how little of it they may use. */
export function withoutCpuQuota(resources: JsonObject): JsonObject {
  const cpu = asObject(resources["cpu"]);
  if (cpu === undefined) return resources;
  const { quota: _quota, period: _period, ...rest } = cpu;
  return { ...resources, cpu: rest };
}
