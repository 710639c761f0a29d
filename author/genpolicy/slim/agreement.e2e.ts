import { encodeJson, type JsonValue } from "@sealpod/core";
import { type Policy, RegoError } from "@sealpod/rego";
import { describe, expect, it } from "vitest";
import type { PrintableJson } from "../pretty-json.ts";
import { RULES, type Shape, SHAPES, testPod } from "../rules/test-support.ts";
import { slimPolicy } from "./index.ts";
import { chosen, compare, load, mutations, scenes } from "./test-support.ts";

/** How much is compared: 1 takes half a minute. All is linear in it; raise it after changes of the passes, by 10 or 100. */
const EFFORT = 1;

/** Another number chooses other cases. */
const SEED = 4;

/** Of some 25 000 scenes per shape every so manieth, and of those of other data; odd, so that no kind of change is left out. */
const STRIDE = 9;
const STRIDE_OF_OTHERS = 401;

/** Changes of the data per shape. There are some 20 000: each place of it in 15 ways. */
const CHANGES = 14;

function inputsOf(shape: Shape): readonly JsonValue[] {
  const { requests } = testPod(shape);
  return shape === "aks" || shape === "aks-tool" ? requests.map((base) => ({ base, env_map: {} })) : requests;
}

const full = (data: JsonValue): string => `${RULES}\npolicy_data := ${encodeJson(data)}`;

/** The policy of a text, or undefined for data that no agent would load: a pattern that is none. */
function loaded(text: string): Policy | undefined {
  try {
    return load(text);
  } catch (error) {
    if (error instanceof RegoError) return undefined;
    throw error;
  }
}

describe("the small policy, at length", () => {
  for (const shape of SHAPES) {
    it(`says what the full one says, ${shape}`, { timeout: 60_000 * EFFORT }, () => {
      const { data } = testPod(shape);
      const policy = load(full(data));
      const found = compare(
        policy,
        load(slimPolicy(RULES, data as PrintableJson)),
        scenes(load(full(data)), inputsOf(shape)),
        Math.ceil(STRIDE / EFFORT),
        true,
      );
      expect(found.differences).toEqual([]);
      expect(found.asked).toBeGreaterThan(2000);
    });

    it(`says it for other data too, ${shape}`, { timeout: 60_000 * EFFORT }, () => {
      let compared = 0;
      for (const change of chosen([...mutations(testPod(shape).data)], CHANGES * EFFORT, SEED)) {
        const data = change();
        const policy = loaded(full(data));
        if (policy === undefined) continue;
        // Of data that no tool makes a reason may get lost: what can never be is not looked at.
        const found = compare(policy, load(slimPolicy(RULES, data as PrintableJson)), scenes(load(full(data)), inputsOf(shape)), STRIDE_OF_OTHERS, false);
        expect(found.differences.slice(0, 1), JSON.stringify(data)).toEqual([]);
        compared++;
      }
      expect(compared).toBeGreaterThan(CHANGES / 2);
    });
  }
});
