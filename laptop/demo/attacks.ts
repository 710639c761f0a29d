import { copyFile, mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { encodeUtf8, fromHex, isSealpodError, messageOf, sha256, toBase64url, toHex, type Clock, type Random } from "@sealpod/core";
import type { PlannedContainer } from "@sealpod/kubelet";
import { execInPod, preparePod, startPod, type PodManifest, type PodOptions, type PreparedPod } from "@sealpod/pod";
import type { PodMachine } from "@sealpod/machine";
import { prepareImage, type ContainerLayer } from "@sealpod/sandbox";
import { explainVaultRelease, type LaptopFetch, type Up } from "@sealpod/services";
import type { VmmDriver } from "@sealpod/vmm";
import { call, ownerToken, reasonOf, type Answer } from "./access.ts";
import { DemoError } from "./errors.ts";
import { attest, collectEvidence, forgeToken, makeWrappingKey, type Evidence } from "./evidence.ts";
import type { Facts, RefusalResult, Refuser } from "./result.ts";

/** What an attack works with: the host's power, and nothing of the guest's. */
export interface AttackWorld {
  readonly manifest: PodManifest;
  /** How pods are started; each attack takes a directory of its own below `directory`. */
  readonly pod: Omit<PodOptions, "manifest" | "directory">;
  /** What the security processor measures when such a pod is launched. */
  readonly measured: PodMachine["measured"];
  readonly directory: string;
  /** Takes the attacks that leave a sandbox as it was; each has one of its own without it. */
  readonly shared?: SharedSandbox;
  readonly up: Up;
  readonly fetch: LaptopFetch;
  readonly clock: Clock;
  readonly random: Random;
}

/** What came of an attack, before it is judged. */
interface Outcome {
  /** True if the expected party refused for the expected reason, and only because of the attack. */
  readonly refused: boolean;
  readonly reason: string;
  readonly facts?: Facts;
}

/** One thing that a malicious operator tries. */
export interface Attack {
  readonly name: string;
  readonly title: string;
  readonly refuser: Refuser;
  readonly play: (world: AttackWorld) => Promise<Outcome>;
}

/** All attacks, in the order in which they are played. */
export const ATTACKS: readonly Attack[] = [
  { name: "exec", title: "The operator runs a shell in the container", refuser: "agent", play: playExec },
  {
    name: "other-command",
    title: "The container is started with another argument",
    refuser: "agent",
    play: async (world) =>
      playCreate(
        world,
        ({ planned, layers }) => ({ planned: withProcess(planned, { args: [...planned.spec.process.args, "--debug"] }), layers }),
        "process.Args",
      ),
  },
  {
    name: "other-env",
    title: "The container gets another environment variable",
    refuser: "agent",
    play: async (world) =>
      playCreate(
        world,
        ({ planned, layers }) => ({ planned: withProcess(planned, { env: [...planned.spec.process.env, "NODE_OPTIONS=--inspect=0.0.0.0"] }), layers }),
        "NODE_OPTIONS",
      ),
  },
  { name: "other-layer", title: "A layer is replaced by another, well-formed one", refuser: "agent", play: playOtherLayer },
  { name: "flipped-layer-byte", title: "One bit of a layer is flipped on the disk", refuser: "agent", play: playFlippedLayer },
  { name: "changed-policy", title: "A permissive policy is set in the sandbox of the real one", refuser: "agent", play: playChangedPolicy },
  { name: "other-host-data", title: "The real policy is set in a sandbox launched with another HOST_DATA", refuser: "agent", play: playOtherHostData },
  { name: "changed-policy-key", title: "A pod with a changed policy, launched as such, asks for the key", refuser: "key vault", play: playChangedPolicyKey },
  { name: "flipped-report-bit", title: "One bit of the report is flipped", refuser: "attestation", play: playFlippedReport },
  { name: "other-report-data", title: "A report is shown with a wrapping key that it does not name", refuser: "attestation", play: playOtherReportData },
  { name: "forged-token", title: "The token's claims are signed by another key", refuser: "key vault", play: playForgedToken },
  { name: "other-claim", title: "A true token is shown for a key whose release policy asks for another claim", refuser: "key vault", play: playOtherClaim },
];

/**
 * The attacks of these names; all of them if there are none.
 * @throws {DemoError} ERR_DEMO_ATTACK
 */
export function findAttacks(names: readonly string[]): readonly Attack[] {
  const unknown = names.find((name) => !ATTACKS.some((attack) => attack.name === name));
  if (unknown !== undefined) {
    throw new DemoError("ERR_DEMO_ATTACK", `there is no attack ${JSON.stringify(unknown)}`, {
      hint: `There are ${ATTACKS.map((attack) => attack.name).join(", ")}.`,
    });
  }
  return names.length === 0 ? ATTACKS : ATTACKS.filter((attack) => names.includes(attack.name));
}

/** Plays one attack; never throws: what goes wrong is not a refusal. */
export async function playAttack(attack: Attack, world: AttackWorld, file: string): Promise<RefusalResult> {
  const started = world.clock.now();
  const { name, title, refuser } = attack;
  const base = { kind: "refusal", name, title, command: `sealpod attack ${file} ${name}`, refuser } as const;
  try {
    const { refused, reason, facts = {} } = await attack.play(world);
    return { ...base, ok: refused, milliseconds: world.clock.now() - started, reason, facts };
  } catch (error) {
    return { ...base, ok: false, milliseconds: world.clock.now() - started, reason: `not played to its end: ${messageOf(error)}`, facts: {} };
  }
}

// The agent's policy ------------------------------------------------------------------------------------------------------

/** A container as the host would have it created. */
interface Creation {
  readonly planned: PlannedContainer;
  readonly layers: readonly ContainerLayer[];
}

async function playExec(world: AttackWorld): Promise<Outcome> {
  return inSandbox(world, async (prepared) => {
    const target = first(prepared);
    const handle = await prepared.start(target);
    const pod = { ...prepared, containers: [handle], exited: prepared.sandbox.exited };
    const outcome = await refusal("ERR_SANDBOX_DENIED", ["ExecProcessRequest is blocked by policy", "exec"], async () => {
      await execInPod(pod, target.name, ["/bin/sh", "-c", "cat /tmp/html/index.html"], world.random);
    });
    await handle.container.remove();
    return outcome;
  });
}

/** Sends a changed CreateContainer, which must be refused, and then the unchanged one, which must not. */
async function playCreate(world: AttackWorld, change: (creation: Creation) => Creation | Promise<Creation>, ...reasons: readonly string[]): Promise<Outcome> {
  return inSandbox(world, async (prepared) => {
    const planned = first(prepared);
    const changed = await change({ planned, layers: prepared.layers.get(planned.image) ?? [] });
    const outcome = await refusal("ERR_SANDBOX_DENIED", ["CreateContainerRequest is blocked by policy", ...reasons], async () => create(prepared, changed));
    const { container } = await prepared.start(planned);
    await container.remove();
    return { ...outcome, facts: { control: "the same request, unchanged, was accepted" } };
  });
}

async function playOtherLayer(world: AttackWorld): Promise<Outcome> {
  return playCreate(
    world,
    async ({ planned, layers }) => {
      // The host has other layers with hashes of their own: those of the pod's other image.
      const other = [...(await layersOfOther(world, planned.image))].at(-1);
      const [top] = layers.slice(-1);
      if (other === undefined || top === undefined) throw new DemoError("ERR_DEMO_STEP", "the pod has no second image to take a layer from");
      return { planned, layers: [...layers.slice(0, -1), { ...top, path: other.path, rootHash: other.rootHash }] };
    },
    "root-hash=",
  );
}

async function playFlippedLayer(world: AttackWorld): Promise<Outcome> {
  return inSandbox(world, async (prepared) => {
    const planned = first(prepared);
    const layers = prepared.layers.get(planned.image) ?? [];
    const [top] = layers.slice(-1);
    if (top === undefined) throw new DemoError("ERR_DEMO_STEP", "the image has no layers");
    const path = join(world.directory, `flipped-${toHex(world.random.bytes(4))}.layer`);
    await copyFile(top.path, path);
    await flipBit(path, 512 + 7);
    // The policy cannot know: the host names the right hash. Reading finds out: the agent's own, or that of the machine's kernel.
    const words = world.pod.driver.isolation === "none" ? "data block 0 does not match" : "cannot be mounted under its root hash";
    const changed = { planned, layers: [...layers.slice(0, -1), { ...top, path }] };
    try {
      return await refusal("ERR_SANDBOX_AGENT", [words], async () => create(prepared, changed));
    } finally {
      await rm(path, { force: true });
    }
  });
}

async function create(prepared: PreparedPod, { planned, layers }: Creation): Promise<void> {
  await prepared.sandbox.createContainer({ id: planned.id, spec: planned.spec, bundle: planned.bundle, layers });
}

// HOST_DATA ---------------------------------------------------------------------------------------------------------------

/** The policy with one rule changed, or one more: whatever it refuses is allowed. */
function permissive(manifest: PodManifest): PodManifest {
  const opened = manifest.policy.replace(/(?:default )?AllowRequestsFailingPolicy ?:= ?false/, "AllowRequestsFailingPolicy:=true");
  const policy = opened === manifest.policy ? `${opened}\nAllowRequestsFailingPolicy := true\n` : opened;
  return { ...manifest, policy, hostData: toHex(sha256(encodeUtf8(policy))) };
}

async function playChangedPolicy(world: AttackWorld): Promise<Outcome> {
  const hostData = fromHex(world.manifest.hostData);
  return refusal("ERR_SANDBOX_POLICY", ["HOST_DATA"], async () =>
    withSandbox(world, permissive(world.manifest), async () => undefined, launchedWith(world.pod.driver, hostData)),
  );
}

async function playOtherHostData(world: AttackWorld): Promise<Outcome> {
  const hostData = fromHex(world.manifest.hostData);
  hostData[0] = (hostData[0] ?? 0) ^ 1;
  return refusal("ERR_SANDBOX_POLICY", ["HOST_DATA"], async () =>
    withSandbox(world, world.manifest, async () => undefined, launchedWith(world.pod.driver, hostData)),
  );
}

async function playChangedPolicyKey(world: AttackWorld): Promise<Outcome> {
  const manifest = permissive(world.manifest);
  const lines: string[] = [];
  const pod = await startPod({
    ...world.pod,
    manifest,
    directory: newDirectory(world),
    output: (_name, _stream, bytes) => void lines.push(Buffer.from(bytes).toString("utf8")),
  });
  try {
    const status = await firstOf(pod.containers).process.exited;
    const reason =
      lines
        .join("")
        .split("\n")
        .find((line) => line.includes("refused")) ?? lines.join("").trim();
    const requestId = /\(request ([0-9a-f-]{36})\)/.exec(reason)?.[1];
    const view = await ownersView(world, requestId);
    const facts = { HOST_DATA: manifest.hostData, "exit code of the container": String(status), [OWNERS_VIEW]: view };
    return { refused: status === 1 && /refused \(403\)/.test(reason) && view.includes(FAILED_HOST_DATA), reason, facts };
  } finally {
    await pod.stop();
  }
}

/** A driver that launches with a HOST_DATA of the operator's choice. */
function launchedWith(driver: VmmDriver, hostData: Uint8Array): VmmDriver {
  return { name: driver.name, isolation: driver.isolation, probe: async () => driver.probe(), start: async (config) => driver.start({ ...config, hostData }) };
}

// Evidence and tokens -----------------------------------------------------------------------------------------------------

async function evidenceOf(world: AttackWorld): Promise<Evidence> {
  return collectEvidence(world.up, world.measured, fromHex(world.manifest.hostData), makeWrappingKey("attack").jwks);
}

async function playFlippedReport(world: AttackWorld): Promise<Outcome> {
  const evidence = await evidenceOf(world);
  const report = Uint8Array.from(evidence.report);
  // Of MEASUREMENT (specs/attestation.md 1.1): the field that says which code runs.
  report[0x090] = (report[0x090] ?? 0) ^ 0x80;
  return refusedAttestation(world, { ...evidence, report }, evidence, /signature/i);
}

async function playOtherReportData(world: AttackWorld): Promise<Outcome> {
  const evidence = await evidenceOf(world);
  return refusedAttestation(world, { ...evidence, runtimeData: makeWrappingKey("attack").jwks }, evidence, /runtime/i);
}

async function refusedAttestation(world: AttackWorld, changed: Evidence, unchanged: Evidence, reason: RegExp): Promise<Outcome> {
  const answer = await attest(world.up, world.fetch, changed);
  await tokenOf(world, unchanged);
  return {
    refused: answer.status === 400 && reason.test(reasonOf(answer)),
    reason: reasonOf(answer),
    facts: { control: "the evidence, unchanged, got a token" },
  };
}

async function tokenOf(world: AttackWorld, evidence: Evidence): Promise<string> {
  const answer = await attest(world.up, world.fetch, evidence);
  const token = answer.body["token"];
  if (answer.status !== 200 || typeof token !== "string") throw new DemoError("ERR_DEMO_SERVICE", `true evidence got no token: ${reasonOf(answer)}`);
  return token;
}

async function playForgedToken(world: AttackWorld): Promise<Outcome> {
  const token = await tokenOf(world, await evidenceOf(world));
  return withKey(world, policyOf(world, world.manifest.hostData), async (name, bearer) => {
    const answer = await release(world, name, forgeToken(token), bearer);
    const control = await release(world, name, token, bearer);
    if (control.status !== 200) throw new DemoError("ERR_DEMO_SERVICE", `the true token was refused too: ${reasonOf(control)}`);
    const view = await ownersView(world, answer.requestId);
    const facts = { control: "the true token released the key", [OWNERS_VIEW]: view };
    return { refused: answer.status === 403 && view.includes("did not sign it"), reason: reasonOf(answer), facts };
  });
}

async function playOtherClaim(world: AttackWorld): Promise<Outcome> {
  const token = await tokenOf(world, await evidenceOf(world));
  const claimed = `${world.manifest.hostData.startsWith("0") ? "1" : "0"}${world.manifest.hostData.slice(1)}`;
  return withKey(world, policyOf(world, claimed), async (name, bearer) => {
    const answer = await release(world, name, token, bearer);
    const view = await ownersView(world, answer.requestId);
    return { refused: answer.status === 403 && view.includes(FAILED_HOST_DATA), reason: reasonOf(answer), facts: { [OWNERS_VIEW]: view } };
  });
}

function policyOf(world: AttackWorld, hostData: string): unknown {
  const allOf = [
    { claim: "x-ms-sevsnpvm-hostdata", equals: hostData },
    { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
  ];
  return { version: "1.0.0", anyOf: [{ authority: `https://${world.up.endpoints.attestation}`, allOf }] };
}

async function release(world: AttackWorld, name: string, target: string, bearer: string): Promise<Answer> {
  return call(world.fetch, "POST", `https://${world.up.endpoints.vault}/keys/${name}/release?api-version=7.4`, { target }, bearer);
}

/** A throw-away key under a release policy: the demo's own is not touched by attacks. */
async function withKey(world: AttackWorld, policy: unknown, use: (name: string, bearer: string) => Promise<Outcome>): Promise<Outcome> {
  const bearer = await ownerToken(world.up, world.fetch);
  const name = `attack-${toHex(world.random.bytes(6))}`;
  const url = `https://${world.up.endpoints.vault}/keys/${name}`;
  const imported = await call(
    world.fetch,
    "PUT",
    `${url}?api-version=7.4`,
    {
      key: { kty: "oct-HSM", k: toBase64url(world.random.bytes(32)) },
      hsm: true,
      attributes: { exportable: true },
      release_policy: { contentType: "application/json; charset=utf-8", data: toBase64url(encodeUtf8(JSON.stringify(policy))) },
    },
    bearer,
  );
  if (imported.status !== 200) throw new DemoError("ERR_DEMO_SERVICE", `the vault did not take a key: ${reasonOf(imported)}`);
  try {
    return await use(name, bearer);
  } finally {
    await call(world.fetch, "DELETE", `${url}?api-version=7.4`, undefined, bearer);
  }
}

/** Name of the fact that holds the audit's words. */
const OWNERS_VIEW = "what only the vault's owner sees";

/** The audit's words for a token whose HOST_DATA is not the one that the key asks for. */
const FAILED_HOST_DATA = "FAILED x-ms-sevsnpvm-hostdata";

/** The vault tells the caller no more than 403; its audit tells the owner why, so that a refusal for another reason does not pass for the right one. */
async function ownersView(world: AttackWorld, requestId: string | undefined): Promise<string> {
  const text = requestId === undefined ? undefined : await explainVaultRelease(world.up.state, requestId, world);
  return text ?? "nothing: the audit does not know the request";
}

// Small parts -------------------------------------------------------------------------------------------------------------

/** Runs what must be refused with this code and these words; anything else is not a refusal. */
async function refusal(code: string, words: readonly string[], attempt: () => Promise<unknown>): Promise<Outcome> {
  try {
    await attempt();
  } catch (error) {
    const reason = messageOf(error);
    return { refused: isSealpodError(error) && error.code === code && words.every((word) => reason.includes(word)), reason };
  }
  return { refused: false, reason: "it was not refused" };
}

/** One sandbox, with the pod's own container in it, for attacks one after the other: a machine takes seconds to start. */
export class SharedSandbox {
  #prepared: Promise<PreparedPod> | undefined;

  /** Whatever fails in it takes it along: the next attack gets a new one. */
  async use<T>(world: AttackWorld, use: (prepared: PreparedPod) => Promise<T>): Promise<T> {
    this.#prepared ??= startedSandbox(world);
    try {
      return await use(await this.#prepared);
    } catch (error) {
      await this.end();
      throw error;
    }
  }

  async end(): Promise<void> {
    const prepared = await this.#prepared?.catch(() => undefined);
    this.#prepared = undefined;
    await prepared?.stop();
  }
}

async function startedSandbox(world: AttackWorld): Promise<PreparedPod> {
  const prepared = await preparePod({ ...world.pod, manifest: world.manifest, directory: newDirectory(world) });
  try {
    await prepared.start(prepared.plan.sandbox);
    return prepared;
  } catch (error) {
    await prepared.stop();
    throw error;
  }
}

/** A sandbox with the pod's own container in it, which the attack leaves as it was. */
async function inSandbox<T>(world: AttackWorld, use: (prepared: PreparedPod) => Promise<T>): Promise<T> {
  if (world.shared !== undefined) return world.shared.use(world, use);
  const own = new SharedSandbox();
  try {
    return await own.use(world, use);
  } finally {
    await own.end();
  }
}

/** A sandbox of its own for one attack. */
async function withSandbox<T>(
  world: AttackWorld,
  manifest: PodManifest,
  use: (prepared: PreparedPod) => Promise<T>,
  driver: VmmDriver = world.pod.driver,
): Promise<T> {
  const prepared = await preparePod({ ...world.pod, driver, manifest, directory: newDirectory(world) });
  try {
    return await use(prepared);
  } finally {
    await prepared.stop();
  }
}

function newDirectory(world: AttackWorld): string {
  return join(world.directory, toHex(world.random.bytes(6)));
}

function first(prepared: PreparedPod): PlannedContainer {
  return firstOf(prepared.plan.containers);
}

function firstOf<T>(list: readonly T[]): T {
  const [item] = list;
  if (item === undefined) throw new DemoError("ERR_DEMO_STEP", "the pod has no container");
  return item;
}

function withProcess(planned: PlannedContainer, change: Partial<PlannedContainer["spec"]["process"]>): PlannedContainer {
  return { ...planned, spec: { ...planned.spec, process: { ...planned.spec.process, ...change } } };
}

async function layersOfOther(world: AttackWorld, image: string): Promise<readonly ContainerLayer[]> {
  const other = world.manifest.workload.template.spec.containers.find((container) => container.image !== image);
  if (other === undefined) return [];
  return prepareImage(world.pod.layerDirectory, world.pod.images, await world.pod.images.resolve(other.image), world.manifest.layerFormat);
}

async function flipBit(path: string, offset: number): Promise<void> {
  const file = await open(path, "r+");
  try {
    const byte = new Uint8Array(1);
    await file.read(byte, 0, 1, offset);
    byte[0] = (byte[0] ?? 0) ^ 1;
    await file.write(byte, 0, 1, offset);
  } finally {
    await file.close();
  }
}

/** Makes the directory that attacks work in. */
export async function prepareAttacks(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
}
