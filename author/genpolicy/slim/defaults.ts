import type { Value } from "@sealpod/rego";
import { equalValues, isArray, RegoObject } from "@sealpod/rego";

/** Fields of the data, and what our rules take for them where they are left out: always by `object.get`. `*` is each item. */
interface Defaults {
  readonly [name: string]: Defaults | { readonly is: Value };
}

const EMPTY_LIST: Value = [];

const POLICY_DATA: Defaults = {
  containers: {
    "*": {
      after: { is: EMPTY_LIST },
      devices: { is: EMPTY_LIST },
      runtime_anno_patterns: { is: RegoObject.empty },
      sandbox_pidns: { is: false },
      OCI: {
        Linux: { Devices: { is: EMPTY_LIST }, Sysctl: { is: RegoObject.empty } },
        Process: {
          Cwd: { is: "" },
          NoNewPrivileges: { is: false },
          Terminal: { is: false },
          User: { GID: { is: 0 }, UID: { is: 0 }, Username: { is: "" } },
        },
        Root: { Readonly: { is: false } },
      },
    },
  },
};

/** The data without the fields that say what our rules take for granted. */
export function withoutDefaults(data: Value): Value {
  return without(data, POLICY_DATA);
}

function without(value: Value, defaults: Defaults): Value {
  if (isArray(value)) {
    const item = defaults["*"];
    return item === undefined || isLeaf(item) ? value : value.map((one) => without(one, item));
  }
  if (!(value instanceof RegoObject)) return value;
  const object = new RegoObject();
  for (const [name, field] of value.entries()) {
    const own = typeof name === "string" && Object.hasOwn(defaults, name) ? defaults[name] : undefined;
    if (own === undefined) object.put(name, field);
    else if (!isLeaf(own)) object.put(name, without(field, own));
    else if (!equalValues(field, own.is)) object.put(name, field);
  }
  return object;
}

function isLeaf(defaults: Defaults | { readonly is: Value }): defaults is { readonly is: Value } {
  return Object.hasOwn(defaults, "is");
}
