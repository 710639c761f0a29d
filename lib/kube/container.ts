import { envFrom, envVar } from "./environment.ts";
import { type Cursor, type Fields, listOf, object, type Read } from "./fields.ts";
import type { Container, ContainerPort, EphemeralContainer, Resources } from "./model.ts";
import { dnsLabel } from "./names.ts";
import { lifecycle, probe } from "./probes.ts";
import { noSecurity, securityContext } from "./security.ts";
import { CONTAINER_FIELDS } from "./tolerated.ts";
import { boolean, integer, oneOf, portNumber, quantities, text, textLike } from "./values.ts";
import { volumeDevice, volumeMount } from "./volumes.ts";

/** core/v1 Container. */
export const container: Read<Container> = object(readContainer);

/** core/v1 EphemeralContainer. */
export const ephemeralContainer: Read<EphemeralContainer> = object((fields, at) => ({
  ...readContainer(fields, at),
  targetContainerName: fields.optional("targetContainerName", text),
}));

const containerPort: Read<ContainerPort> = object((fields) => {
  fields.check({ hostIP: text });
  return {
    containerPort: fields.required("containerPort", portNumber, 1),
    name: fields.optional("name", text),
    protocol: fields.optional("protocol", oneOf("TCP", "UDP", "SCTP")),
    hostPort: fields.optional("hostPort", integer(0, 65_535)),
  };
});

/** core/v1 ResourceRequirements. */
export const resources: Read<Resources> = object((fields) => ({
  limits: fields.optional("limits", quantities) ?? new Map<string, string>(),
  requests: fields.optional("requests", quantities) ?? new Map<string, string>(),
  claims: fields.list(
    "claims",
    object((claim) => {
      claim.check({ request: text });
      return claim.required("name", text, "");
    }),
  ),
}));

/** Resources that ask for nothing. */
export const NO_RESOURCES: Resources = { limits: new Map(), requests: new Map(), claims: [] };

/** An image is named without spaces; the API server takes no others, and the policy has the name in an annotation. */
const imageName = textLike((name) => /^\S+$/.test(name), "the name of an image");

function readContainer(fields: Fields, at: Cursor): Container {
  fields.check(CONTAINER_FIELDS);
  let imageAt = at.position;
  const image: Read<string> = (field) => {
    imageAt = field.position;
    return imageName(field);
  };
  const probes = ["livenessProbe", "readinessProbe", "startupProbe"].map((name) => fields.optional(name, probe) ?? []);
  const hooks = fields.optional("lifecycle", lifecycle);
  return {
    at: at.position,
    name: fields.required("name", dnsLabel, ""),
    image: fields.required("image", image, ""),
    imageAt,
    command: fields.optional("command", listOf(text)),
    args: fields.optional("args", listOf(text)),
    workingDir: fields.optional("workingDir", text),
    env: fields.list("env", envVar),
    envFrom: fields.list("envFrom", envFrom),
    volumeMounts: fields.list("volumeMounts", volumeMount),
    volumeDevices: fields.list("volumeDevices", volumeDevice),
    securityContext: fields.optional("securityContext", securityContext) ?? noSecurity(at),
    tty: fields.optional("tty", boolean),
    stdin: fields.optional("stdin", boolean) ?? false,
    stdinOnce: fields.optional("stdinOnce", boolean) ?? false,
    terminationMessagePath: fields.optional("terminationMessagePath", text),
    terminationMessagePolicy: fields.optional("terminationMessagePolicy", oneOf("File", "FallbackToLogsOnError")),
    restartPolicy: fields.optional("restartPolicy", oneOf("Always", "OnFailure", "Never")),
    serviceAccountName: fields.optional("serviceAccountName", text),
    execCommands: [...probes, ...(hooks?.commands ?? [])].filter((command) => command.length > 0),
    stopSignal: hooks?.stopSignal,
    ports: fields.list("ports", containerPort),
    resources: fields.optional("resources", resources) ?? NO_RESOURCES,
    imagePullPolicy: fields.optional("imagePullPolicy", oneOf("Always", "Never", "IfNotPresent")),
  };
}
