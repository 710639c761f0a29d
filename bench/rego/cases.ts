import { readFileSync } from "node:fs";
import type { JsonObject } from "@sealpod/core";
import type { RegoVersion } from "@sealpod/rego";
import { ownPolicy } from "./own-rules.ts";
import { podOf2023, podOfToday, type Pod } from "./pods.ts";

/** One policy with one request that it allows. */
export interface Case {
  readonly name: string;
  readonly about: string;
  readonly version: RegoVersion;
  readonly policy: string;
  readonly query: string;
  readonly request: JsonObject;
  /** The data document. */
  readonly state: JsonObject;
  /** Milliseconds that issue 3 allows on two cores, by measurement. */
  readonly goals: Goals;
}

/** Goals in milliseconds. */
export interface Goals {
  readonly load?: number;
  readonly first?: number;
  readonly warm?: number;
  readonly warmWithPrints?: number;
}

const CREATE_CONTAINER = "data.agent_policy.CreateContainerRequest";

/** The case that stands for a small policy: it is also the one whose heap is watched. */
export const SMALL_CASE = "authorisation";

/** All cases in the order of the report; {@link Case.policy} and requests are made when asked for. */
export const CASES: readonly { readonly name: string; make(): Promise<Case> }[] = [
  kata2023(1, 3),
  kata2023(3, 3),
  kata2023(5, 6),
  kataToday("distinct", "kata-today-10", "today's dialect, ten containers, the last one asked for", { load: 40, first: 10, warm: 1, warmWithPrints: 2 }),
  kataToday("siblings", "kata-today-siblings", "the same, nine near-identical siblings that fail at the last check", { load: 40, warm: 10 }),
  {
    name: SMALL_CASE,
    make: () =>
      Promise.resolve({
        name: SMALL_CASE,
        about: "a small policy with roles and owners",
        version: "v1",
        policy: rules("authorisation.rego"),
        query: "data.authorisation.allow",
        request: { user: "cora", action: "write", document: { owner: "anna", tags: ["draft", "team"], grants: [{ to: "cora", actions: ["read", "write"] }] } },
        state: {},
        goals: {},
      }),
  },
  {
    name: "sealpod-10",
    async make() {
      const { text, request, state } = await ownPolicy();
      const goals = { load: 40, first: 10, warm: 1, warmWithPrints: 2 };
      return {
        name: "sealpod-10",
        about: "sealpod's own rules, ten containers, the last one asked for",
        version: "v1",
        policy: text,
        query: CREATE_CONTAINER,
        request,
        state,
        goals,
      };
    },
  },
];

function kata2023(containers: number, layers: number): (typeof CASES)[number] {
  const name = `kata-2023-${containers}`;
  const about = `the dialect of 2023 (Rego v0), ${containers === 1 ? "one container" : `${containers} containers`} of ${layers} layers`;
  return { name, make: () => Promise.resolve(kata({ name, about, version: "v0", goals: {} }, "kata-2023.rego", podOf2023(containers, layers))) };
}

function kataToday(kind: "distinct" | "siblings", name: string, about: string, goals: Goals): (typeof CASES)[number] {
  return { name, make: () => Promise.resolve(kata({ name, about, version: "v0", goals }, "kata-today.rego", podOfToday(10, kind))) };
}

function kata(head: Pick<Case, "name" | "about" | "version" | "goals">, file: string, { data, request, state }: Pod): Case {
  // As genpolicy puts a policy together.
  const policy = `${rules(file)}\npolicy_data := ${JSON.stringify(data, null, 2)}`;
  return { ...head, policy, query: CREATE_CONTAINER, request, state };
}

function rules(file: string): string {
  return readFileSync(new URL(file, import.meta.url), "utf8");
}
