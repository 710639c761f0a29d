import { decodeUtf8, messageOf } from "@sealpod/core";
import type { ImageSettings, PodContext, ServiceAddress } from "./context.ts";
import { fieldValue, resourceValue } from "./downward.ts";
import { KubeletError } from "./errors.ts";
import { expand } from "./expand.ts";
import type { EnvVar, PodContainer, PodTemplate } from "./pod.ts";

const PATH_DEFAULT = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** What the API server accepts as the name of an environment variable before Kubernetes 1.30, and what a shell can name. */
const ENV_NAME = /^[-._a-zA-Z][-._a-zA-Z0-9]*$/;

/** The one service whose variables a pod has whatever it says of service links. */
const MASTER_SERVICE = "kubernetes";

/** Environment of a container, and its command line after kubelet's expansion. */
export interface ProcessText {
  readonly env: readonly string[];
  readonly args: readonly string[];
}

/** Variables that kubelet gives a container: those of the pod and, where none of them has the name, those of the services. */
export function kubeletVariables(container: PodContainer, template: PodTemplate, context: PodContext): ReadonlyMap<string, string> {
  const all = context.services ?? [];
  const services = serviceVariables(template.spec.enableServiceLinks === false ? all.filter(({ name }) => name === MASTER_SERVICE) : all);
  const variables = podVariables(container, template, context, services);
  return new Map([...variables, ...[...services].filter(([name]) => !variables.has(name))]);
}

/**
 * Environment and arguments as kubelet and containerd make them: the default PATH, TERM and HOSTNAME, each with the value that image or pod
 * have for it, then the variables of the image, then kubelet's. A variable that both have stands there twice; the last one counts.
 * @param variables {@link kubeletVariables} of the container
 * @throws {KubeletError} ERR_KUBELET_INVALID_POD
 */
export function processText(container: PodContainer, image: ImageSettings, variables: ReadonlyMap<string, string>, hostname: string): ProcessText {
  const defaults = [PATH_DEFAULT, ...(container.tty === true ? ["TERM=xterm"] : []), `HOSTNAME=${hostname}`];
  const given = [...image.env, ...[...variables].map(([name, value]) => `${name}=${value}`)];
  const known = (name: string): string | undefined => variables.get(name);
  const command = (container.command ?? []).map((word) => expand(word, known));
  const args = (container.args ?? []).map((word) => expand(word, known));
  const entrypoint = image.entrypoint.length === 1 && image.entrypoint[0] === "" ? [] : image.entrypoint;
  const words = command.length > 0 ? [...command, ...args] : [...entrypoint, ...(args.length > 0 ? args : image.cmd)];
  if (words.length === 0) {
    throw new KubeletError("ERR_KUBELET_INVALID_POD", `container ${container.name}: neither the manifest nor image ${container.image} names a command`);
  }
  return { env: replaceOrAppend(defaults, given), args: words };
}

/** How containerd puts a list of variables over another: a value takes the place of the other list's, a bare name removes it. */
function replaceOrAppend(defaults: readonly string[], given: readonly string[]): readonly string[] {
  const result: (string | undefined)[] = [...defaults];
  const places = new Map(defaults.map((text, index) => [nameOf(text), index]));
  for (const text of given) {
    const place = places.get(nameOf(text));
    if (place !== undefined) result[place] = text.includes("=") ? text : undefined;
    else if (text.includes("=")) result.push(text);
  }
  return result.filter((text) => text !== undefined);
}

function nameOf(text: string): string {
  return text.split("=", 1)[0] ?? "";
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
    const reference = source.configMapRef ?? source.secretRef;
    const kind = source.configMapRef === undefined ? "Secret" : "ConfigMap";
    if (reference === undefined)
      throw new KubeletError("ERR_KUBELET_INVALID_POD", `container ${container.name}: envFrom names neither a ConfigMap nor a Secret`);
    const object = textsOf(kind, reference.name, context);
    if (object === undefined && reference.optional !== true) throw missing(container, kind, reference.name);
    for (const [key, value] of object ?? []) {
      const name = `${source.prefix ?? ""}${key}`;
      // What cannot name a variable is left out, and an event says so.
      if (ENV_NAME.test(name)) variables.set(name, textOf(value, `container ${container.name}: ${kind} ${reference.name}: ${key}`));
    }
  }
  for (const entry of container.env ?? []) {
    if (!ENV_NAME.test(entry.name)) {
      throw new KubeletError("ERR_KUBELET_INVALID_POD", `container ${container.name}: ${JSON.stringify(entry.name)} cannot name an environment variable`);
    }
    const value = entry.valueFrom === undefined ? entry.value : sourceValue(entry, container, template, context);
    if (entry.valueFrom !== undefined && value === undefined) continue;
    const known = (name: string): string | undefined => variables.get(name) ?? services.get(name);
    variables.set(entry.name, entry.valueFrom === undefined ? expand(value ?? "", known) : (value ?? ""));
  }
  return variables;
}

/** Undefined for an optional reference to nothing. */
function sourceValue(entry: EnvVar, container: PodContainer, template: PodTemplate, context: PodContext): string | undefined {
  const { fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef } = entry.valueFrom ?? {};
  const place = `container ${container.name}: variable ${entry.name}`;
  if (fieldRef !== undefined) return fieldValue(fieldRef.fieldPath, place, template, context);
  if (resourceFieldRef !== undefined) return resourceValue(resourceFieldRef, container, place, template, context);
  const selector = configMapKeyRef ?? secretKeyRef;
  const kind = configMapKeyRef === undefined ? "Secret" : "ConfigMap";
  if (selector === undefined) {
    throw new KubeletError("ERR_KUBELET_UNSUPPORTED", `${place} takes its value from a source that is not supported`, {
      hint: "Supported: value, fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef.",
    });
  }
  const value = textsOf(kind, selector.name, context)?.get(selector.key);
  if (value !== undefined) return textOf(value, `${place}: ${kind} ${selector.name}: ${selector.key}`);
  if (selector.optional === true) return undefined;
  throw missing(container, kind, `${selector.name}: ${selector.key}`);
}

function textsOf(kind: "ConfigMap" | "Secret", name: string, context: PodContext): ReadonlyMap<string, Uint8Array> | undefined {
  return kind === "Secret" ? context.secrets?.get(name) : context.configMaps?.get(name)?.data;
}

function textOf(value: Uint8Array, place: string): string {
  try {
    return decodeUtf8(value, place);
  } catch (cause) {
    throw new KubeletError("ERR_KUBELET_INVALID_POD", messageOf(cause), { cause, hint: "A variable is text. Mount the key as a file." });
  }
}

function missing(container: PodContainer, kind: string, name: string): KubeletError {
  return new KubeletError("ERR_KUBELET_UNRESOLVED", `container ${container.name}: ${kind} ${name} does not exist`, {
    hint: "Add it to the manifest, or mark the reference as optional.",
  });
}
