import type { JsonObject } from "@sealpod/core";
import { AKS_PROFILE, COCO_PROFILE } from "@sealpod/genpolicy";
import { describe, expect, it } from "vitest";
import { asUpstream, authored, commonMutations, hosted, Judge, mutated, type MutableRequest, ownMutations, type PolicyRequest } from "./test-support.ts";
import { IMAGES, PODS, type TestPod } from "./testdata/pods.ts";

/**
 * genpolicy says from a pod's YAML what a container may look like; kubelet and sandbox make of the same YAML what is asked of the agent.
 * They share no code: that the one allows what the others do, and nothing next to it, is what shows that both have understood Kubernetes.
 */
describe("author and host agree on", () => {
  it.each(PODS)("$what", agree);
});

async function agree({ yaml, images = {}, common = false }: TestPod): Promise<void> {
  const all = { ...IMAGES, ...images };
  const made = await authored(yaml, all, AKS_PROFILE);
  const { requests } = await hosted(made.yaml, all);
  const judge = new Judge(made.policy);
  const allowed: string[] = [];
  const refused: string[] = [];
  for (const request of requests) {
    const original = createdContainer(request);
    if (original !== undefined) {
      const mutations = common ? [...ownMutations(original), ...commonMutations(original)] : ownMutations(original);
      for (const mutation of mutations) {
        if (judge.allows({ rule: request.rule, input: mutated(request.input, mutation) })) allowed.push(`${nameOf(original)}: ${mutation.what}`);
      }
    }
    const refusal = judge.refusal(request);
    if (refusal !== undefined) refused.push(refusal);
  }
  expect({ refused, allowed }).toEqual({ refused: [], allowed: [] });
}

describe("author of the other generation and host agree on the containers of", () => {
  it.each(PODS.filter(({ yaml }) => !yaml.includes("emptyDir")))("$what", async ({ yaml, images = {} }: TestPod) => {
    const all = { ...IMAGES, ...images };
    const annotated = await authored(yaml, all, AKS_PROFILE);
    const { requests } = await hosted(annotated.yaml, all);
    const { policy } = await authored(yaml, all, COCO_PROFILE);
    const judge = new Judge(policy);
    // Upstream's CopyFile looks different, and what a container writes is the settings' to allow.
    const others = requests.filter(({ rule }) => rule !== "CopyFileRequest" && rule !== "ReadStreamRequest");
    const upstream = others.map((request) => (createdContainer(request) === undefined ? request : asUpstream(request, COCO_VERSION)));
    expect(upstream.flatMap((request) => judge.refusal(request) ?? [])).toEqual([]);
  });
});

/** What upstream's runtime says of its specifications. */
const COCO_VERSION = "1.1.0";

function createdContainer({ rule, input }: PolicyRequest): MutableRequest | undefined {
  return rule === "CreateContainerRequest" ? ((input as JsonObject)["base"] as unknown as MutableRequest) : undefined;
}

function nameOf({ OCI }: MutableRequest): string {
  return OCI.Annotations["io.kubernetes.cri.container-name"] ?? "pause";
}
