import type { EnvVar } from "@sealpod/kube";
import { type CommandLine, DEFAULT_PATH, withSettingsArgs, wordsOf } from "./command-line.ts";
import { kindName } from "./config-sources.ts";
import { type ContainerContext, placeOf } from "./context.ts";
import { replaceVariables } from "./placeholders.ts";

/** What the two known tools make of fields of the pod. */
export interface FieldRules {
  /** Labels can be referred to. */
  readonly labels: boolean;
}

/** Fields that exist only in the running pod; the rules know the placeholders. */
const RUNTIME_FIELDS: ReadonlyMap<string, string> = new Map([
  ["metadata.name", "$(sandbox-name)"],
  ["metadata.uid", "$(pod-uid)"],
  ["status.hostIP", "$(host-ip)"],
  ["status.podIP", "$(pod-ip)"],
  ["spec.nodeName", "$(node-name)"],
]);

/**
 * Arguments and `NAME=value` strings as the known tools make them (specs/genpolicy.md 3.4): image, TERM, HOSTNAME, env, envFrom,
 * settings; the same string is not repeated, but a name may be; then `$(NAME)` is replaced.
 */
export function toolCommandLine(context: ContainerContext, rules: FieldRules): CommandLine {
  const { ofImage, ofPod, podFirst } = wordsOf(context, false);
  const args = withSettingsArgs(podFirst ? [...ofPod, ...ofImage] : [...ofImage, ...ofPod], context);
  const env = environmentOf(context, rules);
  const replaced = replaceVariables(env, args);
  if ("env" in replaced) return replaced;
  context.report(placeOf(context), `${JSON.stringify(replaced.value)} ${replaced.message}`);
  return { args, env };
}

function environmentOf(context: ContainerContext, rules: FieldRules): readonly string[] {
  const { container, image, sources, namespace, report } = context;
  const env = image.config.env.length > 0 ? [...image.config.env] : [DEFAULT_PATH];
  if (container !== undefined) {
    if (container.tty === true) env.push("TERM=xterm");
    env.push("HOSTNAME=$(host-name)");
    for (const variable of container.env) env.push(`${variable.name}=${valueOf(variable, context, rules) ?? ""}`);
    for (const from of container.envFrom) {
      const values = sources.values(from.kind, namespace, from.name);
      if (values === undefined) report(from.at, `envFrom: no ${kindName(from.kind)} named ${JSON.stringify(from.name)}`);
      for (const [key, { text }] of values ?? []) {
        if (text === undefined) report(from.at, `envFrom: ${JSON.stringify(key)} of Secret ${JSON.stringify(from.name)} is not UTF-8 text`);
        env.push(`${key}=${text ?? ""}`);
      }
    }
  }
  return [...new Set([...env, ...context.containerSettings.env])];
}

function valueOf(variable: EnvVar, context: ContainerContext, rules: FieldRules): string | undefined {
  if (variable.value !== undefined) return variable.value;
  const source = variable.valueFrom;
  switch (source?.kind) {
    case undefined:
      // Kubernetes and upstream take a variable without a value for empty.
      return "";
    case "config-map":
    case "secret": {
      const value = context.sources.value(source.kind, context.namespace, source.name, source.key);
      if (value?.text === undefined) {
        const what = value === undefined ? `no key ${JSON.stringify(source.key)} in a` : `key ${JSON.stringify(source.key)} is not UTF-8 text in the`;
        context.report(variable.at, `env ${variable.name}: ${what} ${kindName(source.kind)} named ${JSON.stringify(source.name)}`);
      }
      return value?.text;
    }
    case "field":
      return fieldValue(variable, source.fieldPath, context, rules);
    case "resource":
      return "$(resource-field)";
  }
}

function fieldValue(variable: EnvVar, path: string, context: ContainerContext, rules: FieldRules): string | undefined {
  const runtime = RUNTIME_FIELDS.get(path);
  if (runtime !== undefined) return runtime;
  if (path === "metadata.namespace") return context.namespace === "" ? "$(sandbox-namespace)" : context.namespace;
  if (path === "spec.serviceAccountName") return context.container?.serviceAccountName ?? "default";
  const { labels, annotations } = context.workload.template.metadata;
  const keyed = /^metadata\.(annotations|labels)\['([^']+)'\]$/.exec(path);
  const key = keyed?.[2] ?? "";
  if (keyed?.[1] === "annotations") return annotations.get(key) ?? "$(todo-annotation)";
  if (keyed?.[1] === "labels" && rules.labels) {
    const label = labels.get(key);
    if (label === undefined) context.report(variable.at, `env ${variable.name}: the pod template has no label ${JSON.stringify(key)}`);
    return label;
  }
  context.report(variable.at, `env ${variable.name}: field ${JSON.stringify(path)} is not supported with these settings: use those of sealpod, which know it`);
  return undefined;
}
