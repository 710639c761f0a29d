import { type Cursor, listOf, object, type Read, record } from "./fields.ts";
import { NO_META, objectMeta, templateMeta } from "./metadata.ts";
import type { ClaimSpec, ClaimTemplate } from "./model.ts";
import { labelSelector } from "./tolerated.ts";
import { anything, oneOf, quantities, text } from "./values.ts";

/** core/v1 PersistentVolumeClaimSpec. */
export const claimSpec: Read<ClaimSpec> = object((fields, at) => {
  fields.check({
    resources: record({ limits: quantities, requests: quantities }),
    selector: labelSelector,
    volumeName: text,
    volumeAttributesClassName: text,
    dataSource: record({ apiGroup: text, kind: text, name: text }),
    dataSourceRef: record({ apiGroup: text, kind: text, name: text, namespace: text }),
  });
  return {
    at: at.position,
    volumeMode: fields.optional("volumeMode", oneOf("Filesystem", "Block")) ?? "Filesystem",
    storageClassName: fields.optional("storageClassName", text),
    accessModes: fields.optional("accessModes", listOf(text)) ?? [],
  };
});

/** A claim that says nothing. */
export function noClaim(at: Cursor): ClaimSpec {
  return { at: at.position, volumeMode: "Filesystem", accessModes: [] };
}

/** An item of a StatefulSet's `volumeClaimTemplates`. */
export const claimTemplate: Read<ClaimTemplate> = object((fields, at) => {
  fields.check({ apiVersion: text, kind: text, status: anything });
  const metadata = fields.required("metadata", objectMeta, NO_META);
  const claim = fields.optional("spec", claimSpec) ?? noClaim(at);
  if (metadata.name === undefined) return fields.find("metadata") === undefined ? undefined : at.refuse("missing-field", "no metadata.name");
  return { at: at.position, name: metadata.name, claim };
});

/** core/v1 PersistentVolumeClaimTemplate, of an ephemeral volume. */
export const ephemeralClaim: Read<ClaimSpec> = object((fields, at) => {
  fields.check({ metadata: templateMeta });
  return fields.required("spec", claimSpec, noClaim(at));
});
