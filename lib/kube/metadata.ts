import { type FieldReaders, listOf, object, type Read, record } from "./fields.ts";
import type { ObjectMeta } from "./model.ts";
import { dnsLabel, dnsSubdomain, namePrefix } from "./names.ts";
import { anything, boolean, seconds, text, textMap } from "./values.ts";

/** What `kubectl get -o yaml` adds. */
const SERVER_FIELDS: FieldReaders = {
  uid: text,
  creationTimestamp: text,
  deletionTimestamp: text,
  deletionGracePeriodSeconds: seconds,
  resourceVersion: text,
  generation: seconds,
  selfLink: text,
  finalizers: listOf(text),
  managedFields: anything,
  ownerReferences: listOf(record({ apiVersion: text, kind: text, name: text, uid: text, controller: boolean, blockOwnerDeletion: boolean })),
};

/** Metadata of an object that has none. */
export const NO_META: ObjectMeta = { labels: new Map(), annotations: new Map() };

/** `metadata` of an object that is created under its own name. */
export const objectMeta: Read<ObjectMeta> = metadataWith(dnsSubdomain, namePrefix);

/** `metadata` of a pod template: its name means nothing. */
export const templateMeta: Read<ObjectMeta> = metadataWith(text, text);

function metadataWith(name: Read<string>, prefix: Read<string>): Read<ObjectMeta> {
  return object((fields) => {
    fields.check(SERVER_FIELDS);
    return {
      name: fields.optional("name", name),
      generateName: fields.optional("generateName", prefix),
      namespace: fields.optional("namespace", dnsLabel),
      labels: fields.optional("labels", textMap) ?? NO_META.labels,
      annotations: fields.optional("annotations", textMap) ?? NO_META.annotations,
    };
  });
}
