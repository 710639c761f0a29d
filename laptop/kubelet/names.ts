import type { Random } from "@sealpod/core";
import { toHex } from "@sealpod/core";
import { KubeletError } from "./errors.ts";

/** Kubernetes' alphabet for generated names: no vowels and no look-alikes, so that no word comes out. */
export const SAFE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789";

/** A generated name is cut so that it stays a DNS label with its five-character suffix. */
const MAX_GENERATED_BASE = 58;

/** A ReplicaSet's name ends in the pod template hash, which comes out as eight to ten characters of the safe alphabet. */
const TEMPLATE_HASH_LENGTH = 10;

const DNS_LABEL = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;
const DNS_SUBDOMAIN = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;

/** Kinds of workload that make pods. */
export type WorkloadKind = "Pod" | "Deployment" | "ReplicaSet" | "ReplicationController" | "DaemonSet" | "StatefulSet" | "Job" | "CronJob";

/** Name that the controllers give the first pod of a workload, e.g. `nginx-deployment-5d59d67564-x2lvq`. */
export function podName(kind: WorkloadKind, name: string, random: Random): string {
  assertDnsSubdomain(name, `${kind} name`);
  switch (kind) {
    case "Pod":
      return name;
    case "StatefulSet":
      return `${name}-0`;
    case "Deployment":
      return generated(`${name}-${safeString(TEMPLATE_HASH_LENGTH, random)}-`, random);
    case "CronJob":
      // The Job's suffix is its scheduled time in minutes; any number of that size names it.
      return generated(`${name}-${26_000_000 + randomBelow(10_000_000, random)}-`, random);
    case "ReplicaSet":
    case "ReplicationController":
    case "DaemonSet":
    case "Job":
      return generated(`${name}-`, random);
  }
}

/** `length` characters of {@link SAFE_ALPHABET}, each as likely as the others. */
export function safeString(length: number, random: Random): string {
  let text = "";
  while (text.length < length) text += SAFE_ALPHABET.charAt(randomBelow(SAFE_ALPHABET.length, random));
  return text;
}

/** Id of a sandbox or container as containerd's CRI plugin makes them: 64 lower-case hex digits. */
export function newContainerId(random: Random): string {
  return toHex(random.bytes(32));
}

/** @throws {KubeletError} ERR_KUBELET_INVALID_POD unless `name` is an RFC 1123 label */
export function assertDnsLabel(name: string, what: string): void {
  if (DNS_LABEL.test(name)) return;
  throw new KubeletError(
    "ERR_KUBELET_INVALID_POD",
    `${what} ${JSON.stringify(name)} is not a DNS label (RFC 1123): lower-case letters, digits and '-', at most 63`,
    {
      hint: "The API server refuses this pod too. Change the name in the manifest.",
    },
  );
}

/** @throws {KubeletError} ERR_KUBELET_INVALID_POD unless `name` is an RFC 1123 subdomain of at most 253 characters */
export function assertDnsSubdomain(name: string, what: string): void {
  if (name.length <= 253 && DNS_SUBDOMAIN.test(name)) return;
  throw new KubeletError("ERR_KUBELET_INVALID_POD", `${what} ${JSON.stringify(name)} is not a DNS subdomain (RFC 1123)`, {
    hint: "The API server refuses this pod too. Change the name in the manifest.",
  });
}

function generated(base: string, random: Random): string {
  return base.slice(0, MAX_GENERATED_BASE) + safeString(5, random);
}

/** A number in [0, bound), bound ≤ 2^31, without modulo bias. */
function randomBelow(bound: number, random: Random): number {
  const limit = 0x1_0000_0000 - (0x1_0000_0000 % bound);
  for (;;) {
    const bytes = random.bytes(4);
    const value = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, false);
    if (value < limit) return value % bound;
  }
}
