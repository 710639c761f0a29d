import { ephemeralClaim, noClaim } from "./claims.ts";
import { fieldReference, resourceReference } from "./environment.ts";
import { type Fields, object, type Read } from "./fields.ts";
import type { DownwardItem, KeyedSource, ProjectedSource, Volume, VolumeDevice, VolumeItem, VolumeMount, VolumeSource } from "./model.ts";
import { climbs, containerPath, descendingPath, dnsLabel, filePath } from "./names.ts";
import { labelSelector } from "./tolerated.ts";
import { boolean, fileMode, integer, oneOf, quantity, seconds, text, textLike, textMap } from "./values.ts";

const volumeItem: Read<VolumeItem> = object((fields) => ({
  key: fields.required("key", text, ""),
  path: fields.required("path", filePath, ""),
  mode: fields.optional("mode", fileMode),
}));

const downwardItem: Read<DownwardItem> = object<DownwardItem>((fields, at) => {
  const path = fields.required("path", filePath, "");
  const mode = fields.optional("mode", fileMode);
  const field = fields.optional("fieldRef", fieldReference);
  const resource = fields.optional("resourceFieldRef", resourceReference);
  if (resource !== undefined && resource.containerName === undefined) at.refuse("missing-field", "no resourceFieldRef.containerName");
  const source = field ?? resource;
  if (field !== undefined && resource !== undefined) return at.refuse("bad-value", "both fieldRef and resourceFieldRef");
  if (source === undefined) {
    const written = fields.find("fieldRef") ?? fields.find("resourceFieldRef");
    return written === undefined ? at.refuse("missing-field", "no fieldRef or resourceFieldRef") : undefined;
  }
  return { at: at.position, path, source, mode };
});

function keyedFields(fields: Fields, nameField: string): KeyedSource {
  return {
    name: fields.optional(nameField, text),
    items: fields.list("items", volumeItem),
    optional: fields.optional("optional", boolean) ?? false,
  };
}

function keyedVolume(kind: "configMap" | "secret", nameField: string): Read<VolumeSource> {
  return object((fields) => ({ kind, ...keyedFields(fields, nameField), defaultMode: fields.optional("defaultMode", fileMode) }));
}

const backstepless = textLike((path) => path !== "" && !climbs(path), 'a path without ".."');

const csi: Read<VolumeSource> = object((fields) => {
  const source: VolumeSource = {
    kind: "csi",
    driver: fields.required("driver", text, ""),
    readOnly: fields.optional("readOnly", boolean) ?? false,
    fsType: fields.optional("fsType", text),
    volumeAttributes: fields.optional("volumeAttributes", textMap) ?? new Map<string, string>(),
    nodePublishSecret: fields.optional(
      "nodePublishSecretRef",
      object((secret) => secret.required("name", text, "")),
    ),
  };
  return source;
});

/** Fields of core/v1 ProjectedVolumeSource sources. */
const PROJECTIONS: Readonly<Record<string, Read<ProjectedSource>>> = {
  configMap: object((fields, at) => ({ kind: "configMap", at: at.position, ...keyedFields(fields, "name") })),
  secret: object((fields, at) => ({ kind: "secret", at: at.position, ...keyedFields(fields, "name") })),
  downwardAPI: object((fields, at) => ({ kind: "downwardAPI", at: at.position, items: fields.list("items", downwardItem) })),
  serviceAccountToken: object((fields, at) => ({
    kind: "serviceAccountToken",
    at: at.position,
    audience: fields.optional("audience", text) ?? "",
    // Shorter ones the API server refuses.
    expirationSeconds: fields.optional("expirationSeconds", integer(600, 2 ** 32)),
    path: fields.required("path", filePath, ""),
  })),
  clusterTrustBundle: object((fields, at) => {
    fields.check({ labelSelector });
    return {
      kind: "clusterTrustBundle",
      at: at.position,
      name: fields.optional("name", text),
      signerName: fields.optional("signerName", text),
      optional: fields.optional("optional", boolean) ?? false,
      path: fields.required("path", filePath, ""),
    };
  }),
  podCertificate: object((fields, at) => {
    fields.check({ keyType: text, maxExpirationSeconds: seconds, userAnnotations: textMap });
    const paths = ["credentialBundlePath", "keyPath", "certificateChainPath"].flatMap((name) => fields.optional(name, filePath) ?? []);
    return { kind: "podCertificate", at: at.position, signerName: fields.required("signerName", text, ""), paths };
  }),
};

/** Sources that policies can describe. */
const SOURCES: Readonly<Record<string, Read<VolumeSource>>> = {
  emptyDir: object((fields) => ({ kind: "emptyDir", medium: fields.optional("medium", text) ?? "", sizeLimit: fields.optional("sizeLimit", quantity) })),
  hostPath: object((fields) => ({
    kind: "hostPath",
    path: fields.required("path", backstepless, ""),
    type: fields.optional("type", oneOf("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")) ?? "",
  })),
  configMap: keyedVolume("configMap", "name"),
  secret: keyedVolume("secret", "secretName"),
  persistentVolumeClaim: object((fields) => ({
    kind: "persistentVolumeClaim",
    claimName: fields.required("claimName", text, ""),
    readOnly: fields.optional("readOnly", boolean) ?? false,
  })),
  azureFile: object((fields) => ({
    kind: "azureFile",
    secretName: fields.required("secretName", text, ""),
    shareName: fields.required("shareName", text, ""),
    readOnly: fields.optional("readOnly", boolean) ?? false,
  })),
  projected: object((fields) => ({
    kind: "projected",
    sources: fields.list("sources", exactlyOne("projection", PROJECTIONS)),
    defaultMode: fields.optional("defaultMode", fileMode),
  })),
  downwardAPI: object((fields) => ({
    kind: "downwardAPI",
    items: fields.list("items", downwardItem),
    defaultMode: fields.optional("defaultMode", fileMode),
  })),
  csi,
  ephemeral: object((fields, at) => ({ kind: "ephemeral", claim: fields.required("volumeClaimTemplate", ephemeralClaim, noClaim(at)) })),
  image: object((fields) => ({
    kind: "image",
    reference: fields.optional("reference", text) ?? "",
    pullPolicy: fields.optional("pullPolicy", oneOf("Always", "Never", "IfNotPresent")),
  })),
};

/** Sources that no policy can describe: what they mount comes from elsewhere, and their fields are nobody's business here. */
const OTHER_SOURCES = [
  "awsElasticBlockStore",
  "azureDisk",
  "cephfs",
  "cinder",
  "fc",
  "flexVolume",
  "flocker",
  "gcePersistentDisk",
  "gitRepo",
  "glusterfs",
  "iscsi",
  "nfs",
  "photonPersistentDisk",
  "portworxVolume",
  "quobyte",
  "rbd",
  "scaleIO",
  "storageos",
  "vsphereVolume",
];

/** The one source of a volume or projection; `none` if it has none. */
function sourceOf<T>(what: string, fields: Fields, readers: Readonly<Record<string, Read<T>>>, none?: T): T | undefined {
  const written = Object.keys(readers).filter((name) => fields.find(name) !== undefined);
  const sources = Object.entries(readers).map(([name, read]) => fields.optional(name, read));
  if (written.length > 1) return fields.cursor.refuse("bad-value", `more than one ${what} source: ${written.join(", ")}`);
  if (written.length === 0) return none ?? fields.cursor.refuse("missing-field", `no supported ${what} source`);
  return sources.find((source) => source !== undefined);
}

function exactlyOne<T>(what: string, readers: Readonly<Record<string, Read<T>>>): Read<T> {
  return object((fields) => sourceOf(what, fields, readers));
}

const VOLUME_SOURCES: Readonly<Record<string, Read<VolumeSource>>> = {
  ...SOURCES,
  ...Object.fromEntries(OTHER_SOURCES.map((type) => [type, (): VolumeSource => ({ kind: "other", type })])),
};

/** What the API server makes of a volume that has only a name, or a source that is null (core/v1 SetDefaults_Volume). */
const DEFAULT_SOURCE: VolumeSource = { kind: "emptyDir", medium: "", sizeLimit: undefined };

/** core/v1 Volume. */
export const volume: Read<Volume> = object((fields, at) => {
  const name = fields.required("name", dnsLabel, "");
  // What could not be read has its problem; its name still stands, so that the mounts that use it are not refused as well.
  const known = fields.names().every((field) => field === "name" || Object.hasOwn(VOLUME_SOURCES, field));
  const source = sourceOf("volume", fields, VOLUME_SOURCES, known ? DEFAULT_SOURCE : undefined) ?? { kind: "other", type: "" };
  return { at: at.position, name, source };
});

/** core/v1 VolumeMount. */
export const volumeMount: Read<VolumeMount> = object((fields, at) => {
  const mount: VolumeMount = {
    at: at.position,
    name: fields.required("name", text, ""),
    mountPath: fields.required("mountPath", containerPath, ""),
    readOnly: fields.optional("readOnly", boolean) ?? false,
    mountPropagation: fields.optional("mountPropagation", oneOf("None", "HostToContainer", "Bidirectional")),
    subPath: fields.optional("subPath", descendingPath),
    subPathExpr: fields.optional("subPathExpr", descendingPath),
    recursiveReadOnly: fields.optional("recursiveReadOnly", oneOf("Disabled", "IfPossible", "Enabled")),
  };
  if ((mount.subPath ?? "") !== "" && (mount.subPathExpr ?? "") !== "") at.refuse("bad-value", "both subPath and subPathExpr");
  if (mount.recursiveReadOnly === "Enabled")
    fields.find("recursiveReadOnly")?.warn("ignored", "Kata's runtime class does not offer it, and the kubelet refuses the pod: write IfPossible");
  return mount;
});

/** core/v1 VolumeDevice. */
export const volumeDevice: Read<VolumeDevice> = object((fields, at) => ({
  at: at.position,
  name: fields.required("name", text, ""),
  devicePath: fields.required("devicePath", text, ""),
}));
