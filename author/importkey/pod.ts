import { gunzipSync } from "node:zlib";
import { decodeUtf8, encodeJson, fromBase64, isSealpodError, messageOf, sha256, toHex } from "@sealpod/core";
import { AKS_PROFILE, COCO_PROFILE, hostDataOf, parseInitdataTemplate, policyOfInitdata } from "@sealpod/genpolicy";
import {
  type Annotation,
  formatPosition,
  type KubeObject,
  parseManifest,
  podAnnotationOf,
  podTemplateOf,
  scalarText,
  type SourceFile,
  valueOf,
  type YamlMapping,
} from "@sealpod/kube";
import { ImportKeyError } from "./errors.ts";

/** How a policy gets to the guest: as itself (AKS), or within initdata (CoCo). */
export type PolicyForm = "policy" | "initdata";

/** A pod, or a workload that makes pods, with its policy. */
export interface AnnotatedPod {
  /** `file:line:column: the Deployment nginx`. */
  readonly place: string;
  readonly kind: string;
  /** `metadata.name`; "" if there is none. */
  readonly name: string;
  /** HOST_DATA of its report: 64 hex digits. */
  readonly hostData: string;
  readonly form: PolicyForm;
  /** Distinct values of an environment variable over the containers of the chosen pods. */
  variable(name: string): readonly string[];
  /**
   * Commands, arguments and environment values of the YAML that are nowhere in the text of its policy, at most {@link MAX_STRAY}: it was probably edited after `genpolicy`. Empty for
   * policies that do not describe containers.
   */
  readonly stray: readonly string[];
}

/** More would not say more. */
const MAX_STRAY = 3;

/** An initdata document that a guest takes is far smaller: its annotation has at most 256 KiB. */
const MAX_INITDATA = 4 * 1024 * 1024;

/**
 * The pod of an annotated YAML that is to get a key. Several pods stand for one if they have the same HOST_DATA.
 * @param wanted `NAME` or `KIND/NAME`, in any letter case of the kind; undefined for all pods of the file
 * @throws {ImportKeyError} ERR_IMPORTKEY_POLICY
 * @throws {KubeError} if it is no manifest
 */
export function parseAnnotatedPod(file: SourceFile, wanted?: string): AnnotatedPod {
  const { objects } = parseManifest(file);
  const all = objects.filter((object) => podTemplateOf(object) !== undefined);
  if (all.length === 0)
    throw new ImportKeyError("ERR_IMPORTKEY_POLICY", `${file.name}: nothing here makes pods`, { hint: "Pass the YAML of the pod that is to get the key." });
  const chosen = wanted === undefined ? all : all.filter((object) => isNamed(object, wanted));
  const names = all.map((object) => `${object.kind}/${nameOf(object)}`).join(", ");
  if (chosen.length === 0) {
    throw new ImportKeyError("ERR_IMPORTKEY_POLICY", `${file.name}: nothing that makes pods is called ${JSON.stringify(wanted)}`, {
      hint: `It has ${names.slice(0, 500)}.`,
    });
  }
  const measured = chosen.map((object) => ({
    object,
    ...measure(object, all.length > 1 ? ` Or choose another pod with --pod NAME: ${names.slice(0, 500)}.` : ""),
  }));
  const [first] = measured;
  if (first === undefined) throw new ImportKeyError("ERR_IMPORTKEY_POLICY", `${file.name}: nothing here makes pods`);
  const other = measured.find(({ hostData }) => hostData !== first.hostData);
  if (other !== undefined) {
    throw new ImportKeyError(
      "ERR_IMPORTKEY_POLICY",
      `${placeOf(first.object)} and ${placeOf(other.object)} have different policies (${first.hostData} and ${other.hostData}): a key is bound to one`,
      { hint: `Choose one with --pod NAME or --pod KIND/NAME: ${names.slice(0, 500)}.` },
    );
  }
  return {
    place: placeOf(first.object),
    kind: first.object.kind,
    name: nameOf(first.object),
    hostData: first.hostData,
    form: first.form,
    stray: measured.flatMap(({ object, text }) => strayOf(object, text)).slice(0, MAX_STRAY),
    variable: (name) => [...new Set(chosen.flatMap((object) => variablesOf(object, name)))],
  };
}

/** HOST_DATA of a pod by the annotation that it has. */
function measure(object: KubeObject, otherwise: string): { readonly hostData: string; readonly form: PolicyForm; readonly text: string } {
  const file = object.manifest.file.name;
  const policy = podAnnotationOf(object, AKS_PROFILE.annotation);
  const initdata = podAnnotationOf(object, COCO_PROFILE.annotation);
  if (policy !== undefined && initdata !== undefined) {
    throw new ImportKeyError(
      "ERR_IMPORTKEY_POLICY",
      `${placeOf(object)} has both annotations ${AKS_PROFILE.annotation} and ${COCO_PROFILE.annotation}: HOST_DATA is either's, by the platform`,
      { hint: "Take away the one that your platform does not read." },
    );
  }
  if (policy !== undefined) {
    const bytes = decoded(policy, AKS_PROFILE.annotation, file);
    return { hostData: toHex(sha256(bytes)), form: "policy", text: new TextDecoder().decode(bytes) };
  }
  if (initdata !== undefined) return { ...measureInitdata(initdata, file), form: "initdata" };
  throw new ImportKeyError("ERR_IMPORTKEY_POLICY", `${placeOf(object)} has no annotation ${AKS_PROFILE.annotation}`, {
    hint: `Run \`sealpod genpolicy -y ${file}\` first.${otherwise}`,
  });
}

function measureInitdata(annotation: Annotation, file: string): { readonly hostData: string; readonly text: string } {
  const compressed = decoded(annotation, COCO_PROFILE.annotation, file);
  const where = `${formatPosition(annotation.position)}: annotation ${COCO_PROFILE.annotation}`;
  try {
    const document = gunzipSync(compressed, { maxOutputLength: MAX_INITDATA });
    const { algorithm } = parseInitdataTemplate(decodeUtf8(document, "initdata"), "initdata");
    const text = policyOfInitdata(document, "initdata");
    if (text === undefined) throw new ImportKeyError("ERR_IMPORTKEY_POLICY", "it has no policy.rego: the guest would take its own");
    return { hostData: hostDataOf(document, algorithm), text };
  } catch (error) {
    const isDamage = error instanceof Error && "code" in error && /^(Z_|ERR_BUFFER_TOO_LARGE)/.test(String(error.code));
    if (!isDamage && !isSealpodError(error)) throw error;
    throw new ImportKeyError("ERR_IMPORTKEY_POLICY", `${where}: ${isDamage ? `not gzip of initdata: ${messageOf(error)}` : messageOf(error)}`, {
      cause: error,
      hint: `Run \`sealpod genpolicy --profile coco -y ${file}\` again.`,
    });
  }
}

function decoded({ value, position }: Annotation, key: string, file: string): Uint8Array {
  let bytes: Uint8Array;
  try {
    bytes = fromBase64(value, "the annotation");
  } catch (error) {
    throw new ImportKeyError("ERR_IMPORTKEY_POLICY", `${formatPosition(position)}: annotation ${key}: ${messageOf(error)}`, {
      cause: error,
      hint: `Run \`sealpod genpolicy -y ${file}\` again.`,
    });
  }
  if (bytes.length === 0) throw new ImportKeyError("ERR_IMPORTKEY_POLICY", `${formatPosition(position)}: annotation ${key} is empty`);
  return bytes;
}

function isNamed(object: KubeObject, wanted: string): boolean {
  const slash = wanted.indexOf("/");
  const name = nameOf(object);
  return slash === -1 ? name === wanted : name === wanted.slice(slash + 1) && object.kind.toLowerCase() === wanted.slice(0, slash).toLowerCase();
}

function nameOf(object: KubeObject): string {
  const metadata = mappingAt(object.node, "metadata");
  return (metadata === undefined ? undefined : textAt(metadata, "name")) ?? "";
}

function placeOf(object: KubeObject): string {
  const name = nameOf(object);
  return `${formatPosition(object.manifest.positionOf(object.node.start))}: the ${object.kind}${name === "" ? "" : ` ${name}`}`;
}

/** Texts of the containers that genpolicy takes into a policy as they are. What it expands (`$`) is not looked for. */
function strayOf(object: KubeObject, policy: string): readonly string[] {
  if (!policy.includes('"containers"')) return [];
  const spec = mappingAt(podTemplateOf(object), "spec");
  const texts = mappingsIn(spec, "containers").flatMap((container) => [
    ...textsIn(container, "command"),
    ...textsIn(container, "args"),
    ...mappingsIn(container, "env").flatMap((variable) => {
      const value = textAt(variable, "value");
      return value === undefined ? [] : [`${textAt(variable, "name") ?? ""}=${value}`];
    }),
  ]);
  // Policies have them as strings of JSON, small ones too.
  return [...new Set(texts)].filter((text) => !text.includes("$") && !policy.includes(encodeJson(text)));
}

/** Values of a variable in the containers of a pod, read without regard for the rest of the pod. */
function variablesOf(object: KubeObject, name: string): readonly string[] {
  const spec = mappingAt(podTemplateOf(object), "spec");
  return mappingsIn(spec, "containers").flatMap((container) =>
    mappingsIn(container, "env").flatMap((variable) => (textAt(variable, "name") === name ? (textAt(variable, "value") ?? []) : [])),
  );
}

function mappingAt(mapping: YamlMapping | undefined, name: string): YamlMapping | undefined {
  const value = mapping === undefined ? undefined : valueOf(mapping, name);
  return value?.kind === "mapping" ? value : undefined;
}

function mappingsIn(mapping: YamlMapping | undefined, name: string): readonly YamlMapping[] {
  const value = mapping === undefined ? undefined : valueOf(mapping, name);
  if (value?.kind !== "sequence") return [];
  return value.items.flatMap((item) => {
    const content = item.kind === "alias" ? item.target : item;
    return content.kind === "mapping" ? content : [];
  });
}

function textsIn(mapping: YamlMapping, name: string): readonly string[] {
  const value = valueOf(mapping, name);
  if (value?.kind !== "sequence") return [];
  return value.items.flatMap((item) => {
    const content = item.kind === "alias" ? item.target : item;
    return content.kind === "scalar" ? (scalarText(content) ?? []) : [];
  });
}

function textAt(mapping: YamlMapping, name: string): string | undefined {
  const value = valueOf(mapping, name);
  return value?.kind === "scalar" ? scalarText(value) : undefined;
}
