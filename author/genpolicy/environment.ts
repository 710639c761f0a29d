import type { ConfigMap, Container, EnvVar, ObjectMeta, Position, Resource, Secret } from "@sealpod/kube";
import type { ImageConfig } from "@sealpod/oci";
import { compareBytes } from "./pretty-json.ts";
import type { Settings } from "./settings.ts";

/** PATH of images that set no environment at all. */
const DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Reports a problem of the manifest at a place. */
export type Report = (position: Position, message: string) => void;

/** ConfigMaps and Secrets that values are looked up in. */
export class ConfigSources {
  readonly #maps: readonly (ConfigMap | Secret)[];

  /** Objects inside a List are not looked at, as in the known tool. */
  constructor(resources: readonly Resource[]) {
    this.#maps = resources.filter((resource) => (resource.kind === "config-map" || resource.kind === "secret") && resource.object.path === "") as (
      | ConfigMap
      | Secret
    )[];
  }

  /** The first value of `key` in objects of this name; the namespace does not matter. */
  value(kind: "config-map" | "secret", name: string, key: string): string | undefined {
    for (const map of this.#named(kind, name)) {
      const value = map.data.get(key);
      if (value !== undefined) return textOf(value);
    }
    return undefined;
  }

  /** All values of the first object of this name, sorted by key. */
  values(kind: "config-map" | "secret", name: string): readonly (readonly [string, string | undefined])[] | undefined {
    const map = this.#named(kind, name)[0];
    if (map === undefined) return undefined;
    return [...map.data].map(([key, value]) => [key, textOf(value)] as const).sort(([a], [b]) => compareBytes(a, b));
  }

  #named(kind: "config-map" | "secret", name: string): readonly (ConfigMap | Secret)[] {
    return this.#maps.filter((map) => map.kind === kind && map.metadata.name === name);
  }
}

/** Text of a value; undefined for a Secret that is not UTF-8. */
function textOf(value: string | Uint8Array): string | undefined {
  if (typeof value === "string") return value;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(value);
  } catch {
    return undefined;
  }
}

/** What a container's environment depends on. */
export interface EnvironmentInput {
  /** Undefined for the pause container. */
  readonly container: Container | undefined;
  readonly image: ImageConfig;
  readonly settings: Settings;
  readonly settingsEnv: readonly string[];
  /** Metadata of the pod template. */
  readonly template: ObjectMeta;
  readonly namespace: string;
  readonly serviceAccountName: string | undefined;
  readonly sources: ConfigSources;
  readonly report: Report;
}

/**
 * `NAME=value` strings in the order of the known tool: image, TERM, HOSTNAME, env, envFrom, settings. The same string is not
 * repeated. When following Kubernetes, what a later source overrides is left out, so that the host cannot choose the old value.
 */
export function environmentOf(input: EnvironmentInput): readonly string[] {
  const { container, image, settings } = input;
  const fromImage = image.env.length > 0 ? [...image.env] : [DEFAULT_PATH];
  if (container === undefined) return unique([...fromImage, ...input.settingsEnv]);
  if (container.tty === true) fromImage.push("TERM=xterm");
  fromImage.push("HOSTNAME=$(host-name)");
  const fromEnv = container.env.flatMap((variable) => {
    const value = valueOf(variable, input);
    return value === undefined ? [] : `${variable.name}=${value}`;
  });
  const fromMaps = container.envFrom.flatMap((from) => {
    const values = input.sources.values(from.kind, from.name);
    if (values === undefined) {
      if (!from.optional || !settings.followKubernetes) input.report(from.at, `envFrom: no ${kindName(from.kind)} named ${JSON.stringify(from.name)}`);
      return [];
    }
    const prefix = settings.followKubernetes ? from.prefix : "";
    return values.flatMap(([key, value]) => {
      if (value !== undefined) return `${prefix}${key}=${value}`;
      input.report(from.at, `envFrom: ${JSON.stringify(key)} of Secret ${JSON.stringify(from.name)} is not UTF-8 text`);
      return [];
    });
  });
  if (!settings.followKubernetes) return unique([...fromImage, ...fromEnv, ...fromMaps, ...input.settingsEnv]);
  // Kubernetes: env over envFrom over image; within one source the last one wins (core/v1 Container).
  const env = lastOfName(fromEnv);
  const maps = withoutNames(lastOfName(fromMaps), env);
  return unique([...withoutNames(fromImage, [...env, ...maps]), ...env, ...maps, ...input.settingsEnv]);
}

function valueOf(variable: EnvVar, input: EnvironmentInput): string | undefined {
  if (variable.value !== undefined) return variable.value;
  const source = variable.valueFrom;
  // Kubernetes takes a variable without a value for empty.
  if (source === undefined) return "";
  switch (source.kind) {
    case "config-map":
    case "secret": {
      const value = input.sources.value(source.kind, source.name, source.key);
      if (value === undefined && !(source.optional && input.settings.followKubernetes)) {
        input.report(
          variable.at,
          `env ${variable.name}: no key ${JSON.stringify(source.key)} in a ${kindName(source.kind)} named ${JSON.stringify(source.name)}`,
        );
      }
      return value;
    }
    case "field":
      return fieldValue(variable, source.fieldPath, input);
    case "resource":
      return "$(resource-field)";
  }
}

/** Fields that exist only in the running pod; the rules know the placeholders. */
const RUNTIME_FIELDS: Readonly<Record<string, string>> = {
  "metadata.name": "$(sandbox-name)",
  "metadata.uid": "$(pod-uid)",
  "status.hostIP": "$(host-ip)",
  "status.podIP": "$(pod-ip)",
  "spec.nodeName": "$(node-name)",
};

function fieldValue(variable: EnvVar, path: string, input: EnvironmentInput): string | undefined {
  const runtime = Object.hasOwn(RUNTIME_FIELDS, path) ? RUNTIME_FIELDS[path] : undefined;
  if (runtime !== undefined) return runtime;
  if (path === "metadata.namespace") return input.namespace;
  if (path === "spec.serviceAccountName") {
    const ofPod = input.settings.followKubernetes ? input.serviceAccountName : undefined;
    return input.container?.serviceAccountName ?? ofPod ?? "default";
  }
  const keyed = /^metadata\.(annotations|labels)\['([^']+)'\]$/.exec(path);
  if (keyed !== null) {
    const [, field, key = ""] = keyed;
    const value = (field === "labels" ? input.template.labels : input.template.annotations).get(key);
    // An annotation that is not in the template may be set when the pod is made: any value.
    if (value !== undefined) return value;
    if (field === "annotations") return "$(todo-annotation)";
    input.report(variable.at, `env ${variable.name}: the pod template has no label ${JSON.stringify(key)}`);
    return undefined;
  }
  input.report(variable.at, `env ${variable.name}: field ${JSON.stringify(path)} is not supported`);
  return undefined;
}

function kindName(kind: "config-map" | "secret"): string {
  return kind === "secret" ? "Secret" : "ConfigMap";
}

function unique(values: readonly string[]): readonly string[] {
  return [...new Set(values)];
}

function nameOf(variable: string): string {
  const at = variable.indexOf("=");
  return at === -1 ? variable : variable.slice(0, at);
}

function lastOfName(variables: readonly string[]): readonly string[] {
  const last = new Map(variables.map((variable, index) => [nameOf(variable), index]));
  return variables.filter((variable, index) => last.get(nameOf(variable)) === index);
}

function withoutNames(variables: readonly string[], overriding: readonly string[]): readonly string[] {
  const names = new Set(overriding.map((variable) => nameOf(variable)));
  return variables.filter((variable) => !names.has(nameOf(variable)));
}
