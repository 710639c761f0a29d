import type { ConfigMap, Resource, Secret } from "@sealpod/kube";
import { compareBytes } from "./pretty-json.ts";

/** Which ConfigMaps and Secrets a name finds. */
export interface LookupRules {
  /** Look into Lists too. The known tools do not. */
  readonly lists: boolean;
  /** An object of another namespace is another object. The known tools look at the name alone. */
  readonly namespaces: boolean;
}

/** ConfigMaps and Secrets that values are looked up in. */
export class ConfigSources {
  readonly #maps: readonly (ConfigMap | Secret)[];
  readonly #rules: LookupRules;

  constructor(resources: readonly Resource[], rules: LookupRules) {
    const isMap = (resource: Resource): resource is ConfigMap | Secret => resource.kind === "config-map" || resource.kind === "secret";
    this.#maps = resources.filter(isMap).filter(({ object }) => rules.lists || object.path === "");
    this.#rules = rules;
  }

  /**
   * The first value of `key` in objects of this name.
   * @param namespace of the pod; "" if it is not known
   */
  value(kind: "config-map" | "secret", namespace: string, name: string, key: string): ConfigValue | undefined {
    for (const map of this.#named(kind, namespace, name)) {
      const value = map.data.get(key);
      if (value !== undefined) return { text: textOf(value) };
    }
    return undefined;
  }

  /** All values of the first object of this name, sorted by key; undefined if there is none. */
  values(kind: "config-map" | "secret", namespace: string, name: string): readonly (readonly [string, ConfigValue])[] | undefined {
    const map = this.#named(kind, namespace, name)[0];
    if (map === undefined) return undefined;
    return [...map.data].map(([key, value]) => [key, { text: textOf(value) }] as const).sort(([a], [b]) => compareBytes(a, b));
  }

  #named(kind: "config-map" | "secret", namespace: string, name: string): readonly (ConfigMap | Secret)[] {
    const near = ({ metadata }: ConfigMap | Secret): boolean =>
      !this.#rules.namespaces || namespace === "" || metadata.namespace === undefined || metadata.namespace === namespace;
    return this.#maps.filter((map) => map.kind === kind && map.metadata.name === name && near(map));
  }
}

/** A value that is there; its text is undefined if its bytes are not UTF-8. */
export interface ConfigValue {
  readonly text: string | undefined;
}

/** `ConfigMap` or `Secret`. */
export function kindName(kind: "config-map" | "secret"): string {
  return kind === "secret" ? "Secret" : "ConfigMap";
}

function textOf(value: string | Uint8Array): string | undefined {
  if (typeof value === "string") return value;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(value);
  } catch {
    return undefined;
  }
}
