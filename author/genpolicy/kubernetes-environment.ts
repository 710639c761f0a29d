import { encodeUtf8, sha256, toHex } from "@sealpod/core";
import type { Container, EnvVar } from "@sealpod/kube";
import { type CommandLine, DEFAULT_PATH, nameOf, withSettingsArgs, wordsOf } from "./command-line.ts";
import { type ConfigValue, kindName } from "./config-sources.ts";
import { type ContainerContext, placeOf } from "./context.ts";
import { decodeLiteral, encodeLiteral, encodePlaceholder, expandReferences } from "./expansion.ts";
import { fieldValue, resourceValue } from "./downward.ts";
import { hostName, isIndexedJob } from "./host-name.ts";

/** A variable's value as it is written into the policy, and whether a Secret went into it. */
interface Value {
  readonly text: string;
  readonly secret: boolean;
}

/** What the API server took as the name of a variable before Kubernetes 1.30; since then nearly everything. */
const VARIABLE_NAME = /^[-._a-zA-Z][-._a-zA-Z0-9]*$/;

/** Tells a pod of an Indexed Job its number (batch/v1 JobSpec.completionMode). */
const INDEX_VARIABLE = "JOB_COMPLETION_INDEX";

/**
 * Arguments and environment as kubelet and containerd make them: each name once, with the value that the container gets
 * (core/v1 Container; containerd, container_create_linux.go). The sandbox has its image's variables alone. Values of Secrets are
 * written as hashes.
 */
export function kubernetesCommandLine(context: ContainerContext): CommandLine {
  const { container, image, containerSettings } = context;
  const merged = new Map<string, Value>();
  const add = (name: string, value: Value): void => void merged.set(name, value);
  const pod = container === undefined ? new Map<string, Value>() : podVariables(container, context);
  if (container !== undefined) {
    add("PATH", plain(valueText(DEFAULT_PATH)));
    if (container.tty === true) add("TERM", plain("xterm"));
    add("HOSTNAME", { text: hostName(context), secret: false });
  }
  const defaults = new Set(merged.keys());
  for (const variable of image.config.env) {
    const name = nameOf(variable);
    if (variable.includes("=")) add(name, plain(valueText(variable)));
    // For containerd a bare name takes away what it would set itself, and nothing else.
    else if (defaults.has(name)) merged.delete(name);
  }
  for (const [name, value] of pod) add(name, value);
  for (const variable of containerSettings.env) add(nameOf(variable), plain(valueText(variable)));
  const env = [...merged].map(([name, value]) => entry(name, value));
  return { env, args: argumentsOf(context, pod) };
}

function argumentsOf(context: ContainerContext, pod: ReadonlyMap<string, Value>): readonly string[] {
  const { ofImage, ofPod, podFirst } = wordsOf(context, true);
  let secret = false;
  const expanded = ofPod.map((word) =>
    expandWord(word, context, (name) => {
      const value = pod.get(name);
      secret ||= value?.secret === true;
      return value?.text;
    }),
  );
  if (secret) context.warn(placeOf(context), "an argument holds the value of a Secret: the policy, which the host can read, has it as plain text");
  const literal = ofImage.map((word) => encodeLiteral(word));
  return withSettingsArgs(podFirst ? [...expanded, ...literal] : [...literal, ...expanded], context);
}

/** What the pod gives: envFrom, then env, which see what stands before them. */
function podVariables(container: Container, context: ContainerContext): ReadonlyMap<string, Value> {
  const variables = new Map<string, Value>();
  for (const from of container.envFrom) {
    const values = context.sources.values(from.kind, context.namespace, from.name);
    if (values === undefined && !from.optional) {
      context.report(
        from.at,
        `envFrom: no ${kindName(from.kind)} named ${JSON.stringify(from.name)}: add it to the file or pass it with --config-file, or mark it optional`,
      );
    }
    for (const [key, { text }] of values ?? []) {
      const name = `${from.prefix}${key}`;
      if (text === undefined) context.report(from.at, `envFrom: ${JSON.stringify(key)} of Secret ${JSON.stringify(from.name)} is not UTF-8 text`);
      else if (!VARIABLE_NAME.test(name)) {
        context.warn(from.at, `envFrom: ${JSON.stringify(name)} cannot name a variable in every version of Kubernetes: it is not in the policy`);
      } else variables.set(name, { text: encodeLiteral(text), secret: from.kind === "secret" });
    }
  }
  for (const variable of container.env) {
    const value = valueOf(variable, variables, container, context);
    if (value !== undefined) variables.set(variable.name, value);
  }
  // The controller adds it behind the others, unless the template has it.
  if (isIndexedJob(context.workload) && isOfTemplate(container, context) && !container.env.some(({ name }) => name === INDEX_VARIABLE)) {
    variables.set(INDEX_VARIABLE, { text: encodePlaceholder("job-index"), secret: false });
  }
  return variables;
}

/** False for ephemeral containers, which are added to the pod that is there. */
function isOfTemplate(container: Container, { workload: { template } }: ContainerContext): boolean {
  return template.spec.containers.includes(container) || template.spec.initContainers.includes(container);
}

/** Undefined for an optional reference to nothing: Kubernetes leaves the variable out. */
function valueOf(variable: EnvVar, before: ReadonlyMap<string, Value>, container: Container, context: ContainerContext): Value | undefined {
  const source = variable.valueFrom;
  const report = (message: string): undefined => {
    context.report(variable.at, `env ${variable.name}: ${message}`);
  };
  switch (source?.kind) {
    case undefined: {
      let secret = false;
      const text = expandReferences(variable.value ?? "", (name) => {
        const value = before.get(name);
        secret ||= value?.secret === true;
        return value?.text;
      });
      return text === undefined ? report(TOO_LONG) : { text, secret };
    }
    case "config-map":
    case "secret": {
      const value: ConfigValue | undefined = context.sources.value(source.kind, context.namespace, source.name, source.key);
      if (value?.text !== undefined) return { text: encodeLiteral(value.text), secret: source.kind === "secret" };
      const where = `${kindName(source.kind)} named ${JSON.stringify(source.name)}`;
      if (value !== undefined) return report(`key ${JSON.stringify(source.key)} is not UTF-8 text in the ${where}`);
      return source.optional
        ? undefined
        : report(`no key ${JSON.stringify(source.key)} in a ${where}: add it to the file or pass it with --config-file, or mark it optional`);
    }
    case "field": {
      const text = fieldValue(source, context);
      if (text === undefined) return report(`field ${JSON.stringify(source.fieldPath)} is not one that Kubernetes gives to a variable`);
      return { text, secret: false };
    }
    case "resource": {
      const text = resourceValue(source, container, context.workload.template.spec);
      return "problem" in text ? report(text.problem) : { text: text.value, secret: false };
    }
  }
}

const TOO_LONG = "grows beyond 1048576 characters when variables are replaced";

function expandWord(word: string, context: ContainerContext, value: (name: string) => string | undefined): string {
  const text = expandReferences(word, value);
  if (text === undefined) context.report(placeOf(context), `argument ${JSON.stringify(`${word.slice(0, 40)}…`)} ${TOO_LONG}`);
  return text ?? "";
}

/** `NAME=value`, or its hash where the value is a secret that does not depend on the running pod. */
function entry(name: string, { text, secret }: Value): string {
  const whole = secret ? decodeLiteral(text) : undefined;
  if (whole === undefined) return `${encodeLiteral(name)}=${text}`;
  return `${encodeLiteral(name)}=${encodePlaceholder(`sha256:${toHex(sha256(encodeUtf8(`${name}=${whole}`)))}`)}`;
}

function plain(value: string): Value {
  return { text: encodeLiteral(value), secret: false };
}

function valueText(variable: string): string {
  return variable.slice(nameOf(variable).length + 1);
}
