import { decodeUtf8 } from "@sealpod/core";
import type { ImageSettings, PodContext, ServiceAddress } from "./context.ts";
import { KubeletError } from "./errors.ts";
import type { EnvVar, PodContainer, PodTemplate } from "./pod.ts";

const PATH_DEFAULT = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** What the API server accepts as the name of an environment variable before Kubernetes 1.30, and what a shell can name. */
const ENV_NAME = /^[-._a-zA-Z][-._a-zA-Z0-9]*$/;

/** Environment of a container, and its command line after kubelet's expansion. */
export interface ProcessText {
  readonly env: readonly string[];
  readonly args: readonly string[];
}

/**
 * Environment and arguments as kubelet and containerd make them. Variables that stand twice keep the place of the first
 * and the value of the last: default PATH, HOSTNAME, image, pod (webhook last), services.
 * @throws {KubeletError} ERR_KUBELET_UNRESOLVED, ERR_KUBELET_UNSUPPORTED, ERR_KUBELET_INVALID_POD
 */
export function processText(container: PodContainer, image: ImageSettings, template: PodTemplate, context: PodContext, hostname: string): ProcessText {
  const services = serviceVariables(context.services ?? []);
  const pod = podVariables(container, template, context, services);
  const merged = new Map<string, string>();
  const add = (text: string): void => {
    const at = text.indexOf("=");
    if (at > 0) merged.set(text.slice(0, at), text.slice(at + 1));
  };
  add(PATH_DEFAULT);
  if (container.tty === true) add("TERM=xterm");
  add(`HOSTNAME=${hostname}`);
  for (const text of image.env) add(text);
  for (const [name, value] of pod) add(`${name}=${value}`);
  for (const [name, value] of services) if (!pod.has(name)) add(`${name}=${value}`);

  const known = (name: string): string | undefined => pod.get(name) ?? services.get(name);
  const command = (container.command ?? []).map((word) => expand(word, known));
  const args = (container.args ?? []).map((word) => expand(word, known));
  const words = command.length > 0 ? [...command, ...args] : [...image.entrypoint, ...(args.length > 0 ? args : image.cmd)];
  if (words.length === 0) {
    throw new KubeletError("ERR_KUBELET_INVALID_POD", `container ${container.name}: neither the manifest nor image ${container.image} names a command`);
  }
  return { env: [...merged].map(([name, value]) => `${name}=${value}`), args: words };
}

/**
 * Kubernetes' `$(NAME)` expansion: `$$` is a dollar sign, an unknown name stays as it is written.
 * @param value gives the value of a name, or undefined
 */
export function expand(text: string, value: (name: string) => string | undefined): string {
  let out = "";
  for (let at = 0; at < text.length; at++) {
    const char = text.charAt(at);
    const next = text.charAt(at + 1);
    if (char !== "$" || next === "") {
      out += char;
    } else if (next === "$") {
      out += "$";
      at++;
    } else if (next === "(" && text.includes(")", at + 2)) {
      const end = text.indexOf(")", at + 2);
      const name = text.slice(at + 2, end);
      out += value(name) ?? `$(${name})`;
      at = end;
    } else {
      // "$" before another character, or "$(" that never closes, is plain text.
      out += char + next;
      at++;
    }
  }
  return out;
}

/** `X_SERVICE_HOST`, `X_SERVICE_PORT`, … and the docker-link variables of each Service. */
export function serviceVariables(services: readonly ServiceAddress[]): ReadonlyMap<string, string> {
  const variables = new Map<string, string>();
  for (const service of services) {
    const prefix = service.name.toUpperCase().replaceAll("-", "_");
    const first = service.ports[0];
    if (first === undefined) continue;
    variables.set(`${prefix}_SERVICE_HOST`, service.host);
    variables.set(`${prefix}_SERVICE_PORT`, String(first.port));
    for (const port of service.ports) {
      if (port.name !== undefined) variables.set(`${prefix}_SERVICE_PORT_${port.name.toUpperCase().replaceAll("-", "_")}`, String(port.port));
    }
    variables.set(`${prefix}_PORT`, `tcp://${service.host}:${first.port}`);
    for (const { port } of service.ports) {
      const link = `${prefix}_PORT_${port}_TCP`;
      variables.set(link, `tcp://${service.host}:${port}`);
      variables.set(`${link}_PROTO`, "tcp");
      variables.set(`${link}_PORT`, String(port));
      variables.set(`${link}_ADDR`, service.host);
    }
  }
  return variables;
}

function podVariables(container: PodContainer, template: PodTemplate, context: PodContext, services: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  const variables = new Map<string, string>();
  for (const source of container.envFrom ?? []) {
    const [kind, reference, objects] =
      source.configMapRef === undefined
        ? (["Secret", source.secretRef, context.secrets] as const)
        : (["ConfigMap", source.configMapRef, context.configMaps] as const);
    if (reference === undefined)
      throw new KubeletError("ERR_KUBELET_INVALID_POD", `container ${container.name}: envFrom names neither a ConfigMap nor a Secret`);
    const object = objects?.get(reference.name);
    if (object === undefined && reference.optional !== true) throw missing(container, kind, reference.name);
    for (const [key, value] of object ?? []) variables.set(`${source.prefix ?? ""}${key}`, decodeUtf8(value, `${kind} ${reference.name}: ${key}`));
  }
  for (const entry of container.env ?? []) {
    if (!ENV_NAME.test(entry.name)) {
      throw new KubeletError("ERR_KUBELET_INVALID_POD", `container ${container.name}: ${JSON.stringify(entry.name)} cannot name an environment variable`);
    }
    const value = valueOf(entry, container, template, context);
    if (value !== undefined)
      variables.set(entry.name, entry.valueFrom === undefined ? expand(value, (name) => variables.get(name) ?? services.get(name)) : value);
  }
  return variables;
}

function valueOf(entry: EnvVar, container: PodContainer, template: PodTemplate, context: PodContext): string | undefined {
  const from = entry.valueFrom;
  if (from === undefined) return entry.value ?? "";
  if (from.fieldRef !== undefined) return fieldValue(from.fieldRef.fieldPath, container, template, context);
  const [kind, selector, objects] =
    from.configMapKeyRef === undefined
      ? (["Secret", from.secretKeyRef, context.secrets] as const)
      : (["ConfigMap", from.configMapKeyRef, context.configMaps] as const);
  if (selector === undefined) {
    throw new KubeletError(
      "ERR_KUBELET_UNSUPPORTED",
      `container ${container.name}: variable ${entry.name} takes its value from a source that is not supported`,
      {
        hint: "Supported: value, fieldRef, configMapKeyRef, secretKeyRef.",
      },
    );
  }
  const value = objects?.get(selector.name)?.get(selector.key);
  if (value !== undefined) return decodeUtf8(value, `${kind} ${selector.name}: ${selector.key}`);
  if (selector.optional === true) return undefined;
  throw missing(container, kind, `${selector.name}: ${selector.key}`);
}

function fieldValue(path: string, container: PodContainer, template: PodTemplate, context: PodContext): string {
  switch (path) {
    case "metadata.name":
      return context.name;
    case "metadata.namespace":
      return context.namespace;
    case "metadata.uid":
      return context.uid;
    case "spec.nodeName":
      return context.nodeName;
    case "spec.serviceAccountName":
      return template.spec.serviceAccountName ?? "default";
    case "status.hostIP":
      return context.hostIp;
    case "status.podIP":
      return context.podIp;
    default: {
      const match = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(path);
      if (match !== null) {
        const map = match[1] === "labels" ? template.metadata?.labels : template.metadata?.annotations;
        return map?.[match[2] ?? ""] ?? "";
      }
      throw new KubeletError("ERR_KUBELET_UNSUPPORTED", `container ${container.name}: field ${path} cannot be a variable's value`);
    }
  }
}

function missing(container: PodContainer, kind: string, name: string): KubeletError {
  return new KubeletError("ERR_KUBELET_UNRESOLVED", `container ${container.name}: ${kind} ${name} does not exist`, {
    hint: "Add it to the manifest, or mark the reference as optional.",
  });
}
