import type { Capabilities } from "@sealpod/kube";
import type { ContainerContext } from "./context.ts";
import type { PolicyCapabilities } from "./policy-data.ts";

/** How `add` and `drop` change a list of capabilities. */
export type ChangeCapabilities = (initial: readonly string[], all: readonly string[], change: Capabilities) => readonly string[];

/** The five sets of a container (specs/genpolicy.md 3.4): lists of the settings are written as a placeholder for them. */
export function capabilitiesOf({ container, settings }: ContainerContext, change: ChangeCapabilities): PolicyCapabilities {
  const { default_caps: defaults, privileged_caps: all } = settings.common;
  const initial = container?.securityContext.privileged === true ? all : defaults;
  const changed = change(initial, all, container?.securityContext.capabilities ?? { add: [], drop: [] });
  const list = sameList(changed, defaults) ? ["$(default_caps)"] : sameList(changed, all) ? ["$(privileged_caps)"] : changed;
  return { Ambient: [], Bounding: list, Effective: list, Inheritable: [], Permitted: list };
}

/** The known tools: drop, then add; names as they are written, so that `add: [ALL]` adds a capability of that name. */
export const changeAsTool: ChangeCapabilities = (initial, _all, { add, drop }) => {
  let list = [...initial];
  for (const name of drop) list = name === "ALL" ? [] : list.filter((known) => known !== `CAP_${name}`);
  for (const name of add) if (!list.includes(`CAP_${name}`)) list.push(`CAP_${name}`);
  return list;
};

/** containerd's CRI: `ALL` first, then single names, added before dropped. */
export const changeAsContainerd: ChangeCapabilities = (initial, all, { add, drop }) => {
  let list = isAll(add) ? [...all] : [...initial];
  if (isAll(drop)) list = [];
  for (const name of fullNames(add)) if (!list.includes(name)) list.push(name);
  const dropped = fullNames(drop);
  return list.filter((name) => !dropped.includes(name));
};

function fullNames(names: readonly string[]): readonly string[] {
  return names
    .map((name) => name.toUpperCase())
    .filter((name) => name !== "ALL")
    .map((name) => (name.startsWith("CAP_") ? name : `CAP_${name}`));
}

function isAll(names: readonly string[]): boolean {
  return names.some((name) => name.toUpperCase() === "ALL");
}

function sameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((value, index) => value === b[index]);
}
