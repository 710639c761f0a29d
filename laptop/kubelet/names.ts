import type { Random } from "@sealpod/core";
import { toHex } from "@sealpod/core";
import { KubeletError } from "./errors.ts";

/** Kubernetes' alphabet for generated names: no vowels and no look-alikes, so that no word comes out. */
export const SAFE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789";

const DNS_LABEL = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;
const DNS_SUBDOMAIN = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;

/** Characters of a generated name before its suffix of five: it stays a DNS label. */
export const MAX_GENERATED_BASE = 58;

/** A name as the API server generates it of `generateName`: cut, and five characters more. */
export function generatedName(base: string, random: Random): string {
  return base.slice(0, MAX_GENERATED_BASE) + safeString(5, random);
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

/** A number in [0, bound), bound ≤ 2^31, without modulo bias. */
export function randomBelow(bound: number, random: Random): number {
  const limit = 0x1_0000_0000 - (0x1_0000_0000 % bound);
  for (;;) {
    const bytes = random.bytes(4);
    const value = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, false);
    if (value < limit) return value % bound;
  }
}
