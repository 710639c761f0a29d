import type { Read } from "./fields.ts";
import { textLike } from "./values.ts";

/** RFC 1123 label, at most 63 characters: the API server takes nothing else, and policies quote these names inside of patterns. */
const LABEL = /^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/;

/** A part of a subdomain has no limit of its own in Kubernetes. */
const SUBDOMAIN_PART = /^[a-z0-9](?:[-a-z0-9]{0,251}[a-z0-9])?$/;

function isDnsLabel(name: string): boolean {
  return LABEL.test(name);
}

function isDnsSubdomain(name: string): boolean {
  return name.length <= 253 && name.split(".").every((part) => SUBDOMAIN_PART.test(part));
}

/** Name of a volume, namespace, host … */
export const dnsLabel: Read<string> = textLike(isDnsLabel, "a DNS-1123 label (at most 63 lower-case letters, digits and -)");

/** Name of most objects. */
export const dnsSubdomain: Read<string> = textLike(isDnsSubdomain, "a DNS-1123 subdomain (at most 253 lower-case letters, digits, - and .)");

/** What `generateName` may be: the API server appends five letters or digits. */
export const namePrefix: Read<string> = textLike(
  (value) => isDnsSubdomain(`${value}x`),
  "the beginning of a DNS-1123 subdomain (lower-case letters, digits, - and .)",
);

/**
 * Name of an environment variable: printable ASCII without `=` (core/v1, relaxed form). An `=` would move the border between
 * name and value in the policy's `NAME=VALUE` strings.
 */
export function isVariableName(name: string): boolean {
  return /^[ -<>-~]+$/.test(name);
}

/** Key of a ConfigMap or Secret; it becomes a file name. */
export function isConfigKey(key: string): boolean {
  return /^[-._a-zA-Z0-9]{1,253}$/.test(key) && key !== "." && !key.startsWith("..");
}

/** True if a component of the path is `..`. */
export function climbs(path: string): boolean {
  return path.split("/").includes("..");
}

/** Path below a volume's root. */
export const descendingPath: Read<string> = textLike((path) => !path.startsWith("/") && !climbs(path), 'a relative path without ".."');

/** Path of a file that a volume makes. */
export const filePath: Read<string> = textLike(
  (path) => path !== "" && !path.startsWith("/") && !path.startsWith("..") && !climbs(path),
  'the relative path of a file, without ".."',
);

/** Where something appears in a container. */
export const containerPath: Read<string> = textLike((path) => path.startsWith("/") && !path.includes(":"), "an absolute path without a colon");
