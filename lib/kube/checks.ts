/** What the API server, or else the kubelet, refuses in a pod as a whole: no policy is made for a pod that can never be. */
import type { Cursor } from "./fields.ts";
import type { ClaimTemplate, Container, PodSpec, Volume } from "./model.ts";

/** A container and its place in the pod. */
export interface PlacedContainer {
  readonly at: Cursor;
  readonly role: "init" | "app" | "ephemeral";
  readonly container: Container;
}

/** What a container can mount, by name. */
interface Sources {
  readonly volumes: ReadonlyMap<string, Volume>;
  readonly claims: ReadonlyMap<string, ClaimTemplate>;
}

/** Reports what is wrong between the parts of a pod. */
export function checkPod(at: Cursor, spec: PodSpec, containers: readonly PlacedContainer[], claims: readonly ClaimTemplate[]): void {
  checkUnique(
    "volumes",
    spec.volumes.map((volume, index) => ({ name: volume.name, at: itemAt(at, "volumes", index) })),
  );
  // Enforcement picks the policy container by name: two of one name could stand in for each other.
  checkUnique(
    "containers",
    containers.map((placed) => ({ name: placed.container.name, at: placed.at })),
  );
  const sources: Sources = {
    volumes: new Map(spec.volumes.map((volume) => [volume.name, volume])),
    claims: new Map(claims.map((claim) => [claim.name, claim])),
  };
  const resourceClaims = new Set(spec.resourceClaims);
  for (const placed of containers) {
    checkMounts(placed, sources);
    checkDevices(placed, sources);
    checkUser(placed, spec);
    checkInit(placed);
    checkClaims(placed, resourceClaims);
  }
}

/** The item of a list in the mapping at the cursor. */
function itemAt(at: Cursor, name: string, index: number): Cursor {
  const list = at.fields()?.find(name);
  const item = list?.node.kind === "sequence" ? list.node.items[index] : undefined;
  return list === undefined || item === undefined ? at : list.at(item, `[${index}]`);
}

function checkUnique(what: string, items: readonly { readonly name: string; readonly at: Cursor }[]): void {
  const names = new Set<string>();
  for (const { name, at } of items) {
    if (name !== "" && names.has(name)) at.refuse("bad-value", `two ${what} are named ${JSON.stringify(name)}`);
    names.add(name);
  }
}

function checkMounts({ at, container }: PlacedContainer, { volumes, claims }: Sources): void {
  const paths = new Set<string>();
  for (const [index, mount] of container.volumeMounts.entries()) {
    const refuse = (message: string): undefined => itemAt(at, "volumeMounts", index).refuse("bad-value", message, mount.at);
    const path = mount.mountPath;
    if (path !== "" && paths.has(path)) refuse(`mountPath ${JSON.stringify(path)} is used twice`);
    paths.add(path);
    const name = JSON.stringify(mount.name);
    if (mount.name !== "" && !volumes.has(mount.name) && !claims.has(mount.name)) refuse(`the pod has no volume named ${name}`);
    if (claimModeOf(mount.name, volumes, claims) === "Block") refuse(`${name} is a claim of volumeMode Block: use volumeDevices`);
    if (mount.mountPropagation === "Bidirectional" && container.securityContext.privileged !== true) {
      refuse("mountPropagation Bidirectional needs a privileged container");
    }
  }
}

function checkDevices({ at, container }: PlacedContainer, { volumes, claims }: Sources): void {
  const paths = new Set<string>(container.volumeMounts.map(({ mountPath }) => mountPath));
  for (const [index, device] of container.volumeDevices.entries()) {
    const refuse = (message: string): undefined => itemAt(at, "volumeDevices", index).refuse("bad-value", message, device.at);
    if (device.devicePath !== "" && paths.has(device.devicePath)) refuse(`devicePath ${JSON.stringify(device.devicePath)} is used twice`);
    paths.add(device.devicePath);
    const name = JSON.stringify(device.name);
    const kind = volumes.get(device.name)?.source.kind;
    if (claims.has(device.name) || kind === "ephemeral") {
      if (claimModeOf(device.name, volumes, claims) !== "Block") refuse(`${name} is a claim of volumeMode Filesystem: use volumeMounts, or volumeMode: Block`);
    } else if (device.name !== "" && kind === undefined) refuse(`the pod has no volume named ${name}`);
    else if (device.name !== "" && kind !== "persistentVolumeClaim") refuse(`${name} is no volume claim, and only those can be devices`);
  }
}

/** The volume mode of a claim that is written in the file's workload itself; a StatefulSet's claim goes before a volume of the same name. */
function claimModeOf(name: string, volumes: Sources["volumes"], claims: Sources["claims"]): string | undefined {
  const source = volumes.get(name)?.source;
  return claims.get(name)?.claim.volumeMode ?? (source?.kind === "ephemeral" ? source.claim.volumeMode : undefined);
}

function checkUser({ at, container }: PlacedContainer, spec: PodSpec): void {
  const nonRoot = container.securityContext.runAsNonRoot ?? spec.securityContext.runAsNonRoot;
  const own = container.securityContext.runAsUser;
  if (nonRoot !== true || (own ?? spec.securityContext.runAsUser) !== 0) return;
  const place = own === undefined ? spec.securityContext.at : container.securityContext.at;
  at.refuse("bad-value", "runAsNonRoot with runAsUser 0: the kubelet never starts the container", place);
}

function checkInit({ at, role, container }: PlacedContainer): void {
  if (role !== "init" || container.restartPolicy === "Always") return;
  const fields = at.fields();
  for (const name of ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"]) {
    fields?.find(name)?.refuse("bad-value", "an init container has this only with restartPolicy: Always");
  }
}

function checkClaims({ at, container }: PlacedContainer, claims: ReadonlySet<string>): void {
  for (const name of container.resources.claims) {
    if (name !== "" && !claims.has(name)) at.refuse("bad-value", `resources.claims: the pod has no resource claim named ${JSON.stringify(name)}`);
  }
}
