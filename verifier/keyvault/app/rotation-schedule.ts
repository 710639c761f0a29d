import { fromBase64url, messageOf, newUuid, parseJson, type JsonObject } from "@sealpod/core";
import { KeyvaultError } from "../errors.ts";
import { generateKeyMaterial, type KeyMaterial } from "../key-material.ts";
import type { FairQueueOptions } from "../fair-queue.ts";
import { addDuration, DEFAULT_ROTATION_POLICY, parseRotationPolicy, rotationDue, type RotationPolicy } from "../rotation-policy.ts";
import type { AuditLine, KeyRecord, StoredRotationPolicy } from "../store/types.ts";
import type { KeyvaultServices } from "./exchange.ts";

/** Keys that one call of {@link rotateDue} takes at once. */
const BATCH = 50;

/** What rotation works with. */
export type RotationContext = Pick<KeyvaultServices, "store" | "clock" | "random" | "logger">;

/** The rotation policy of a key, or the one of keys that have none. */
export function policyOf(stored: StoredRotationPolicy | undefined): RotationPolicy {
  return stored === undefined ? DEFAULT_ROTATION_POLICY : parseRotationPolicy(parseJson(stored.text) as JsonObject);
}

/** @throws {KeyvaultError} ERR_KEYVAULT_KEY_OPERATION */
export function requireEnabled(key: KeyRecord): void {
  if (key.enabled) return;
  throw new KeyvaultError("ERR_KEYVAULT_KEY_OPERATION", "Operation rotate is not allowed on a disabled key.", { details: { inner: "KeyDisabled" } });
}

/** How a successor is made. */
export interface SuccessorOptions extends FairQueueOptions {
  /** Asked inside the transaction: false if there is nothing to do any more. */
  readonly isWanted?: (latest: KeyRecord, policy: RotationPolicy) => boolean;
}

/**
 * Adds a version of the same type and size with new material. All else, its release policy before everything, is that of the latest version when it is added: to make the material takes
 * time, in which an owner may tighten the policy or disable the key. Validity starts anew by the rotation policy.
 * @param started the version that was the latest when the rotation began
 * @returns undefined if it is not wanted any more
 * @throws {KeyvaultError} ERR_KEYVAULT_CONFLICT if another version came in between or the key was deleted; ERR_KEYVAULT_KEY_OPERATION if it was disabled; ERR_KEYVAULT_LIMIT,
 *   ERR_KEYVAULT_THROTTLED
 */
export async function addSuccessor(
  context: RotationContext,
  started: KeyRecord,
  audit: AuditLine,
  { isWanted = () => true, ...turn }: SuccessorOptions = {},
): Promise<KeyRecord | undefined> {
  const { store, clock } = context;
  const { vault, name } = started;
  await store.requireKeyRoom(vault, name);
  const material = await likeMaterial(context, started, turn);
  const now = Math.floor(clock.now() / 1000);
  try {
    return await store.succeedKey(vault, name, audit, (latest, rotation) => {
      if (latest.version !== started.version) {
        throw new KeyvaultError("ERR_KEYVAULT_CONFLICT", `Key ${name} was given another version while it was rotated.`, {
          hint: "Repeat the request if it is still needed.",
        });
      }
      const policy = policyOf(rotation);
      if (!isWanted(latest, policy)) return undefined;
      requireEnabled(latest);
      const { type, hsm, keyOps, exportable, tags, releasePolicy } = latest;
      const expires = policy.expiryTime === undefined ? undefined : addDuration(now, policy.expiryTime);
      const { publicMembers, secret } = material;
      return { vault, name, type, hsm, keyOps, publicMembers, enabled: true, notBefore: undefined, expires, exportable, tags, releasePolicy, secret };
    });
  } finally {
    material.secret.fill(0);
  }
}

/** New material of the kind of another key. How long an oct key is, only its secret says; imported ones have lengths that nobody could create. */
async function likeMaterial({ store, random }: RotationContext, key: KeyRecord, turn: FairQueueOptions): Promise<KeyMaterial> {
  const { n, crv } = key.publicMembers;
  if (key.type === "oct") {
    const secret = await store.openKey(key);
    secret.fill(0);
    return { type: "oct", publicMembers: {}, secret: random.bytes(secret.length) };
  }
  const size = n === undefined ? undefined : fromBase64url(n).length * 8;
  return generateKeyMaterial({ type: key.type, size, curve: crv, publicExponent: undefined }, random, { ...turn, vault: key.vault });
}

/**
 * Sets anew when the automatic rotation of a key is due, if what changed makes it earlier: a version that expires sooner. What makes it later is found when the time
 * comes. The line is one of its own, because it says another thing than that of the request.
 *
 * The change that it follows is done and has been written down: if this fails, the log says so, and the change is answered as what it is.
 */
export async function rescheduleRotation(context: RotationContext, key: KeyRecord, line: AuditLine): Promise<void> {
  try {
    if ((await context.store.rotationPolicy(key.vault, key.name)) === undefined) return;
    await schedule(context, key, line, (due, present) => (due === undefined || (present !== undefined && present <= due) ? present : due));
  } catch (error) {
    context.logger.log("error", "the rotation of a key could not be scheduled", { vault: key.vault, key: key.name, problem: messageOf(error) });
  }
}

/** @param choose of when it is due by the policy and the latest version, and of what is set */
async function schedule(
  context: RotationContext,
  { vault, name }: Pick<KeyRecord, "vault" | "name">,
  line: AuditLine,
  choose: (due: number | undefined, present: number | undefined) => number | undefined = (due) => due,
): Promise<void> {
  const lineOf = (due: number | undefined): AuditLine => {
    const reason = due === undefined ? "no rotation is due" : `rotation is due at ${new Date(due * 1000).toISOString()}`;
    return { ...line, operation: "keys/schedule-rotation", name, version: "", reason };
  };
  await context.store.scheduleRotation(vault, name, (stored, latest) => choose(rotationDue(policyOf(stored), latest), stored.due), lineOf);
}

/**
 * Rotates the keys of all vaults whose rotation policy says that it is time. For a timer: an hour is often enough for periods of days. Replicas may call it at once: the
 * version that a rotation starts from must still be the latest when it ends.
 * @returns how many were rotated; a key that fails is logged, and tried again by the next call
 */
export async function rotateDue(context: RotationContext): Promise<number> {
  let rotated = 0;
  const seen = new Set<string>();
  for (;;) {
    const due = await context.store.dueRotations(Math.floor(context.clock.now() / 1000), BATCH + seen.size);
    const fresh = due.filter(({ vault, name }) => !seen.has(`${vault}/${name}`));
    if (fresh.length === 0) return rotated;
    for (const { vault, name } of fresh) {
      seen.add(`${vault}/${name}`);
      try {
        if (await rotateOne(context, vault, name)) rotated++;
      } catch (error) {
        context.logger.log("error", "a key could not be rotated", { vault, key: name, problem: messageOf(error) });
      }
    }
  }
}

async function rotateOne(context: RotationContext, vault: string, name: string): Promise<boolean> {
  const { store, clock } = context;
  const [stored, latest] = [await store.rotationPolicy(vault, name), await store.key(vault, name)];
  if (stored === undefined || latest === undefined) return false;
  const line = scheduleLine(context, vault, name);
  const isWanted = (key: KeyRecord, policy: RotationPolicy): boolean => (rotationDue(policy, key) ?? Infinity) <= clock.now() / 1000;
  // One key after the other: this can wait for its turn, where a client cannot.
  const key = isWanted(latest, policyOf(stored)) ? await addSuccessor(context, latest, line, { isWanted, isPatient: true }) : undefined;
  if (key !== undefined) context.logger.log("info", "key rotated", { vault, key: name, version: key.version });
  await schedule(context, latest, line);
  return key !== undefined;
}

/** The line of what nobody asked for but the policy. */
function scheduleLine(context: RotationContext, vault: string, name: string): AuditLine {
  return {
    requestId: `schedule ${newUuid(context.random)}`,
    at: context.clock.now(),
    vault,
    operation: "keys/rotate",
    name,
    version: "",
    tenantId: "",
    appid: "",
    oid: "",
    outcome: "allowed",
    failed: undefined,
    reason: "the rotation policy of the key",
    authority: "",
    findings: [],
  };
}
