import { encodeUtf8 } from "@sealpod/core";
import type { PodContext } from "./context.ts";
import { KubeletError } from "./errors.ts";
import { assertDnsLabel, assertDnsSubdomain } from "./names.ts";
import type { PodSpec } from "./pod.ts";

/** Kubernetes cuts at 63 so that a host name stays a DNS label. */
const MAX_LABEL = 63;

/** Longest host name that Linux takes. */
const MAX_HOSTNAME = 64;

/** Names of a pod in its own network. */
export interface PodHost {
  /** Of the kernel, of /etc/hostname, and the value of HOSTNAME. */
  readonly hostname: string;
  /** First name in /etc/hosts. */
  readonly label: string;
  /** Domain of the pod, if it has a subdomain. */
  readonly domain?: string;
}

/**
 * The host name of a pod: that of its specification, or its own cut to 63 characters; with its domain where it asks for that.
 * @throws {KubeletError} ERR_KUBELET_INVALID_POD
 */
export function podHost(spec: PodSpec, context: PodContext): PodHost {
  if (spec.hostnameOverride !== undefined) {
    assertDnsSubdomain(spec.hostnameOverride, "hostnameOverride");
    if (spec.hostnameOverride.length > MAX_HOSTNAME || spec.setHostnameAsFQDN === true) {
      throw new KubeletError("ERR_KUBELET_INVALID_POD", `hostnameOverride has more than ${MAX_HOSTNAME} characters, or stands beside setHostnameAsFQDN`);
    }
    return { hostname: spec.hostnameOverride, label: spec.hostnameOverride };
  }
  if (spec.hostname !== undefined) assertDnsLabel(spec.hostname, "hostname");
  const name = spec.hostname ?? context.name;
  const label = name.length > MAX_LABEL ? name.slice(0, MAX_LABEL).replace(/[-.]+$/, "") : name;
  if (spec.subdomain === undefined) return { hostname: label, label };
  assertDnsLabel(spec.subdomain, "subdomain");
  const domain = `${spec.subdomain}.${context.namespace}.svc.${context.clusterDomain}`;
  if (spec.setHostnameAsFQDN !== true) return { hostname: label, label, domain };
  const hostname = `${label}.${domain}`;
  if (hostname.length <= MAX_HOSTNAME) return { hostname, label, domain };
  throw new KubeletError("ERR_KUBELET_INVALID_POD", `setHostnameAsFQDN: ${hostname} has ${hostname.length} characters, Linux takes ${MAX_HOSTNAME}`, {
    hint: "Give the pod a shorter hostname or subdomain.",
  });
}

/** Text of /etc/hosts as kubelet writes it for a pod with its own network. */
export function hostsFile(host: PodHost, spec: PodSpec, context: PodContext): Uint8Array {
  const names = host.domain === undefined ? host.label : `${host.label}.${host.domain}\t${host.label}`;
  const lines = [
    "# Kubernetes-managed hosts file.",
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "fe00::0\tip6-mcastprefix",
    "fe00::1\tip6-allnodes",
    "fe00::2\tip6-allrouters",
    ...context.podIps.map((ip) => `${ip}\t${names}`),
  ];
  const aliases = spec.hostAliases ?? [];
  if (aliases.length > 0) lines.push("", "# Entries added by HostAliases.", ...aliases.map((alias) => `${alias.ip}\t${(alias.hostnames ?? []).join("\t")}`));
  if (context.hosts.length > 0) lines.push("", "# Services on this laptop.", ...context.hosts.map((entry) => `${entry.ip}\t${entry.names.join("\t")}`));
  return encodeUtf8(`${lines.join("\n")}\n`);
}
