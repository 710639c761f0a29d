import { readFileSync } from "node:fs";
import { encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { compileRules, guestBefore, type Mutable, type Shape, SHAPES, testPod } from "./test-support.ts";

/**
 * What the host may change in a request that was accepted, and no more; docs/policy.md says the same under "The host's business". Patterns of
 * `<path> <kind of change>`, where `*` stands for one step and `[n]` of arrays is left out.
 */
const HOST_BUSINESS: readonly (readonly [name: string, changes: RegExp])[] = [
  ["ids and ports of streams", /^(?:exec_id|std(?:in|out|err)_port) /],
  ["host name", /^OCI\.Hostname /],
  ["limits of resources", /^OCI\.(?:Linux\.(?:CgroupsPath|Resources\.(?:Memory|CPU|HugepageLimits)(?:\.\w+)?)|Process\.(?:Rlimits(?:\.\w+)?|OOMScoreAdj)) /],
  ["terminal's size", /^OCI\.Process\.ConsoleSize /],
  ["AppArmor profile", /^OCI\.Process\.ApparmorProfile /],
  ["which device a disk is", /^storages\.source other device$/],
  ["image name as containerd spells it", /^OCI\.Annotations\.io\.kubernetes\.cri\.image-name /],
  ["annotations that are left out", /^OCI\.Annotations\.(?!io\.kubernetes\.cri\.(?:container-|sandbox-(?:id|name|namespace)$))\S+ removed$/],
  ["annotations of Kubernetes", /^OCI\.Annotations added io\.kubernetes\.cri\.\S+$/],
  ["sysctls that are left out", /^OCI\.Linux\.Sysctl\.\S+ removed$/],
  ["files that the host supplies", /^OCI\.Mounts\[(?:\/etc\/resolv\.conf|\/etc\/app)\] removed$/],
  ["variables that Kubernetes adds", /^OCI\.Process\.Env\[KUBERNETES_PORT_443_TCP\] removed$/],
  [
    "values of the running pod",
    /^OCI\.(?:Process\.(?:Env\[(?:LIMIT|NODE|URL)\] other value|Args\[1\] longer)|Annotations\.io\.kubernetes\.cri\.sandbox-uid (?:longer|empty))$/,
  ],
  ["a group or a protected path twice", /^OCI\.(?:Process\.User\.AdditionalGids|Linux\.(?:Masked|Readonly)Paths) doubled$/],
];

/** What is free in some shapes only. */
const MORE: Readonly<Record<Shape, readonly RegExp[]>> = {
  aks: [],
  // Options of cgroup mounts are a set there.
  coco: [/^OCI\.Mounts\[\/sys\/fs\/cgroup\]\.options doubled$/],
  // The tool does not know groups, nor what a pod's host name will be.
  "aks-tool": [/^OCI\.Process\.(?:User\.(?:GID|AdditionalGids) |Env\[HOSTNAME\] other value$)/],
  "kata-tool": [
    /^OCI\.Mounts\[\/sys\/fs\/cgroup\]\.options doubled$/,
    /^OCI\.Process\.Env\[HOSTNAME\] other value$/,
    // What it tells the image puller of the annotations.
    /^storages\.driver_options removed$/,
  ],
};

/** A change of a request, and what it is called. */
interface Mutation {
  readonly name: string;
  readonly request: JsonObject;
}

describe("an accepted CreateContainer", () => {
  for (const shape of SHAPES) {
    const pod = testPod(shape);
    const policy = compileRules(pod.data);
    for (const [index, request] of pod.requests.entries()) {
      it(`of ${shape}, container ${index}, is refused after any single change that is not the host's business`, () => {
        const accepted: string[] = [];
        let tried = 0;
        for (const { name, request: mutated } of mutationsOf(request)) {
          const guest = guestBefore(pod, index, policy);
          tried++;
          if (guest.create(shape, mutated) === undefined) accepted.push(name);
        }
        expect(tried).toBeGreaterThan(150);
        const allowed = [...HOST_BUSINESS.map(([, pattern]) => pattern), ...MORE[shape]];
        expect(accepted.filter((name) => !allowed.some((pattern) => pattern.test(name)))).toEqual([]);
      });
    }
  }

  it("leaves to the host what docs/policy.md lists, and each entry of that list is needed", () => {
    const documentation = readFileSync(new URL("../../../docs/policy.md", import.meta.url), "utf8");
    const section = documentation.slice(documentation.indexOf("## The host's business"));
    for (const [name] of HOST_BUSINESS) expect(section.slice(0, section.indexOf("\n## ", 1)).replaceAll(/\s+/g, " "), name).toContain(name);
    const pod = testPod("aks");
    const policy = compileRules(pod.data);
    const accepted = pod.requests.flatMap((request, index) =>
      mutationsOf(request)
        .filter(({ request: mutated }) => guestBefore(pod, index, policy).create("aks", mutated) === undefined)
        .map(({ name }) => name),
    );
    for (const [name, pattern] of HOST_BUSINESS) {
      expect(
        accepted.some((change) => pattern.test(change)),
        name,
      ).toBe(true);
    }
  });
});

function mutationsOf(request: JsonObject): readonly Mutation[] {
  const mutations: Mutation[] = [];
  const change = (name: string, edit: (copy: Mutable) => void): void => {
    const copy = structuredClone(request) as Mutable;
    edit(copy);
    mutations.push({ name, request: copy });
  };
  const at = (copy: Mutable, steps: readonly string[]): Mutable => steps.reduce((node, step) => node[step as never] as Mutable, copy);
  const visit = (value: JsonValue, steps: readonly string[], name: string): void => {
    const put = (next: JsonValue) => (copy: Mutable) => {
      (at(copy, steps.slice(0, -1)) as Record<string, JsonValue>)[steps.at(-1) ?? ""] = next;
    };
    if (Array.isArray(value)) {
      for (const [index, item] of value.entries()) {
        const label = itemName(name, item, index);
        change(`${label} removed`, (copy) => void (at(copy, steps) as JsonValue[]).splice(index, 1));
        change(`${label} doubled`, (copy) => void (at(copy, steps) as JsonValue[]).push(structuredClone(item)));
        visit(item, [...steps, String(index)], label);
      }
      if (value.length > 1) change(`${name} cut to one`, (copy) => void (at(copy, steps) as JsonValue[]).splice(1));
      change(`${name} added`, (copy) => void (at(copy, steps) as JsonValue[]).push(added(value[0], name)));
      return;
    }
    if (typeof value === "object" && value !== null) {
      if (name.endsWith("Annotations") || name.endsWith("Sysctl")) {
        for (const key of Object.keys(value)) change(`${name}.${key} removed`, (copy) => delete (at(copy, steps) as Record<string, JsonValue>)[key]);
        for (const key of ["io.katacontainers.x", "io.kubernetes.cri.x"])
          change(`${name} added ${key}`, (copy) => ((at(copy, steps) as Record<string, JsonValue>)[key] = "x"));
      } else if (name !== "") change(`${name} null`, put(null));
      for (const [key, item] of Object.entries(value)) visit(item, [...steps, key], name === "" ? key : `${name}.${key}`);
      return;
    }
    if (typeof value === "boolean") change(`${name} flipped`, put(!value));
    else if (typeof value === "bigint") throw new Error(`${name}: no test makes large numbers`);
    else if (typeof value === "number") change(`${name} other number`, put(value + 1));
    else if (value === null) change(`${name} set`, put({ x: 1 }));
    else if (/\.Env\[/.test(name)) {
      change(`${name} longer`, put(`${value} x`));
      change(`${name} empty`, put(value.slice(0, value.indexOf("=") + 1)));
      change(
        `${name} other value`,
        put(value.replace("536870912", "1").replace("node-7.example", "node-8").replace("10.1.2.3", "10.1.2.4").replace("web-1.a", "b")),
      );
    } else {
      change(`${name} longer`, put(`${value}x`));
      if (value !== "") change(`${name} empty`, put(""));
      if (/^[0-9a-f]{2}$/.test(value)) change(`${name} other device`, put("1f"));
    }
  };
  visit(request, [], "");
  return mutations.filter(({ request: mutated }) => JSON.stringify(mutated) !== JSON.stringify(request));
}

/** Mounts by destination, variables by name, arguments by number: others are all alike. */
function itemName(name: string, item: JsonValue, index: number): string {
  if (name.endsWith(".Args")) return `${name}[${index}]`;
  if (typeof item === "string" && name.endsWith(".Env")) return `${name}[${item.slice(0, item.indexOf("="))}]`;
  if (typeof item === "object" && item !== null && "destination" in item) return `${name}[${encodeJson(item["destination"] ?? null).slice(1, -1)}]`;
  return name;
}

function added(example: JsonValue | undefined, name: string): JsonValue {
  if (name.endsWith(".Env")) return "LD_PRELOAD=/x";
  if (typeof example === "number") return example + 7;
  if (typeof example === "object" && example !== null && "destination" in example) return { ...example, destination: "/elsewhere" };
  if (typeof example === "object") return structuredClone(example);
  return "/x";
}
