import { object, type Read } from "./fields.ts";
import type { EnvFrom, EnvSource, EnvVar, FieldReference, ResourceReference } from "./model.ts";
import { isVariableName } from "./names.ts";
import { boolean, quantity, text, textLike } from "./values.ts";

const variableName = textLike(isVariableName, 'the name of a variable (printable ASCII without "=")');

/** core/v1 EnvVar. */
export const envVar: Read<EnvVar> = object((fields, at) => {
  const name = fields.required("name", variableName, "");
  const value = fields.optional("value", text);
  const valueFrom = fields.optional("valueFrom", envSource);
  if (value !== undefined && value !== "" && valueFrom !== undefined) at.refuse("bad-value", `${JSON.stringify(name)} has both value and valueFrom`);
  // An empty value beside valueFrom counts as none (core/v1 validation).
  return { at: at.position, name, value: valueFrom === undefined ? value : undefined, valueFrom };
});

function keyReference(kind: "config-map" | "secret"): Read<EnvSource> {
  return object((fields, at) => ({
    kind,
    at: at.position,
    name: fields.required("name", text, ""),
    key: fields.required("key", text, ""),
    optional: fields.optional("optional", boolean) ?? false,
  }));
}

/** core/v1 ObjectFieldSelector. */
export const fieldReference: Read<FieldReference> = object((fields, at) => {
  fields.check({ apiVersion: text });
  return { kind: "field", at: at.position, fieldPath: fields.required("fieldPath", text, "") };
});

const resourceName = textLike(
  (name) => /^(?:limits|requests)\.(?:cpu|memory|ephemeral-storage|hugepages-[A-Za-z0-9.]+)$/.test(name),
  "limits or requests of cpu, memory, ephemeral-storage or hugepages-SIZE, such as limits.memory",
);

/** core/v1 ResourceFieldSelector. */
export const resourceReference: Read<ResourceReference> = object((fields, at) => ({
  kind: "resource",
  at: at.position,
  resource: fields.required("resource", resourceName, ""),
  containerName: fields.optional("containerName", text),
  divisor: fields.optional("divisor", quantity),
}));

const SOURCES = ["configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef"];

const envSource: Read<EnvSource> = object<EnvSource>((fields, at) => {
  const sources = [
    fields.optional("configMapKeyRef", keyReference("config-map")),
    fields.optional("secretKeyRef", keyReference("secret")),
    fields.optional("fieldRef", fieldReference),
    fields.optional("resourceFieldRef", resourceReference),
  ].filter((source) => source !== undefined);
  const file = fields.find("fileKeyRef");
  if (file !== undefined) {
    return file.refuse(
      "bad-value",
      "the value is written while the pod runs, so no policy can hold it: let the program read the file, or use configMapKeyRef or secretKeyRef",
    );
  }
  if (sources.length > 1) return at.refuse("bad-value", "more than one source");
  // A source that is there but could not be read has its own problem.
  if (sources[0] === undefined && !SOURCES.some((name) => fields.find(name) !== undefined))
    at.refuse("missing-field", `no ${SOURCES.join(", ").replace(/, (?=\w+$)/, " or ")}`);
  return sources[0];
});

const mapReference: Read<{ readonly name: string; readonly optional: boolean }> = object((fields) => ({
  name: fields.required("name", text, ""),
  optional: fields.optional("optional", boolean) ?? false,
}));

/** core/v1 EnvFromSource. */
export const envFrom: Read<EnvFrom> = object((fields, at) => {
  const configMap = fields.optional("configMapRef", mapReference);
  const secret = fields.optional("secretRef", mapReference);
  const prefix =
    fields.optional(
      "prefix",
      textLike((value) => value === "" || isVariableName(value), 'the beginning of variable names (printable ASCII without "=")'),
    ) ?? "";
  if (configMap !== undefined && secret === undefined) return { at: at.position, kind: "config-map", prefix, ...configMap };
  if (secret !== undefined && configMap === undefined) return { at: at.position, kind: "secret", prefix, ...secret };
  const written = fields.find("configMapRef") ?? fields.find("secretRef");
  return written === undefined || configMap !== undefined ? at.refuse("missing-field", "expected one of configMapRef and secretRef") : undefined;
});
