import { claimTemplate } from "./claims.ts";
import { type Cursor, type Fields, object, type Read } from "./fields.ts";
import type { KubeObject } from "./manifest.ts";
import { NO_META, objectMeta, templateMeta } from "./metadata.ts";
import type { ClaimTemplate, PodTemplate, Workload, WorkloadKind } from "./model.ts";
import { emptyPodSpec, emptyTemplate, podSpec, podTemplate } from "./pod.ts";
import { SPEC_FIELDS } from "./tolerated.ts";
import { text } from "./values.ts";

/** What is read from the `spec` of a workload. */
interface Controller {
  readonly template: PodTemplate;
  readonly claims: readonly ClaimTemplate[];
  readonly serviceName?: string | undefined;
}

/** Reads an object that makes pods. */
export function readWorkload(object: KubeObject, workload: WorkloadKind, fields: Fields): Workload {
  const metadata = fields.optional("metadata", objectMeta) ?? NO_META;
  const base = { kind: "workload", object, workload, metadata } as const;
  if (workload === "Pod") {
    const spec = fields.required("spec", podSpec([]), emptyPodSpec(fields.cursor));
    return { ...base, template: { metadata, spec }, volumeClaims: [], volumeClaimTemplates: [] };
  }
  const missing: Controller = { template: emptyTemplate(fields.cursor), claims: [] };
  const { template, claims, serviceName } = fields.required("spec", controller(workload), missing);
  return { ...base, template, volumeClaims: claims.map(({ name }) => name), volumeClaimTemplates: claims, serviceName };
}

function controller(workload: Exclude<WorkloadKind, "Pod">): Read<Controller> {
  return object((fields, at) => {
    fields.check(SPEC_FIELDS[workload]);
    if (workload === "CronJob") return fields.required<Controller>("jobTemplate", jobTemplate, { template: emptyTemplate(at), claims: [] });
    const claims = workload === "StatefulSet" ? fields.list("volumeClaimTemplates", claimTemplate) : [];
    const serviceName = workload === "StatefulSet" ? fields.optional("serviceName", text) : undefined;
    const names = new Set<string>();
    for (const claim of claims) {
      if (names.has(claim.name)) at.refuse("bad-value", `two volumeClaimTemplates are named ${JSON.stringify(claim.name)}`, claim.at);
      names.add(claim.name);
    }
    const template = fields.required("template", podTemplate(claims), emptyTemplate(at));
    checkRestart(workload, template, at);
    return { template, claims, serviceName };
  });
}

const jobTemplate: Read<Controller> = object((fields, at) => {
  fields.check({ metadata: templateMeta });
  return fields.required("spec", controller("Job"), { template: emptyTemplate(at), claims: [] });
});

/** The policy does not depend on it, so it is only a warning. */
function checkRestart(workload: WorkloadKind, { spec }: PodTemplate, at: Cursor): void {
  const found = spec.restartPolicy ?? "Always";
  if (spec.containers.length === 0 || (found === "Always") === (workload !== "Job")) return;
  const expected = workload === "Job" ? "OnFailure or Never" : "Always";
  at.warn("bad-value", `the pods of a ${workload} need restartPolicy ${expected}, found ${found}: the API server refuses others`, spec.at);
}
