import { asArray, asObject, type JsonObject, type JsonValue } from "@sealpod/core";
import { badParameter } from "./errors.ts";
import type { KeyRecord } from "./store/types.ts";

/** An ISO 8601 duration as rotation policies write it. */
export interface Duration {
  /** As it was given, e.g. `P90D`. */
  readonly text: string;
  readonly months: number;
  /** Seconds beside the months. */
  readonly seconds: number;
}

/** When an action of a rotation policy is due. */
export type Trigger = { readonly kind: "timeAfterCreate" | "timeBeforeExpiry"; readonly time: Duration };

/** One lifetime action. */
export interface LifetimeAction {
  readonly type: "Rotate" | "Notify";
  readonly trigger: Trigger;
}

/** A rotation policy. */
export interface RotationPolicy {
  readonly actions: readonly LifetimeAction[];
  /** How long new versions are valid. */
  readonly expiryTime: Duration | undefined;
}

const DAY = 86_400;
/** Limits of the genuine service. */
const MIN_EXPIRY: number = 28 * DAY;
const MIN_TRIGGER: number = 7 * DAY;
/** Ours: dates stay within four digits of a year. */
const MAX_DURATION: number = 100 * 366 * DAY;

/** What the genuine service gives for a key that has no policy yet. */
export const DEFAULT_ROTATION_POLICY: RotationPolicy = {
  actions: [{ type: "Notify", trigger: { kind: "timeBeforeExpiry", time: { text: "P30D", months: 0, seconds: 30 * DAY } } }],
  expiryTime: undefined,
};

/**
 * Reads the body of PUT /keys/{name}/rotationpolicy.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function parseRotationPolicy(body: JsonObject): RotationPolicy {
  const attributes = body["attributes"] ?? {};
  const object = asObject(attributes);
  if (object === undefined) throw badParameter("Property attributes must be an object.");
  const expiry = object["expiryTime"];
  const expiryTime = expiry === undefined || expiry === null || expiry === "" ? undefined : parseDuration(expiry, "attributes.expiryTime", MIN_EXPIRY);
  const list = body["lifetimeActions"] ?? [];
  const actions = (asArray(list) ?? [null]).map((item, index) => parseAction(item, `lifetimeActions[${index}]`, expiryTime));
  for (const type of ["Rotate", "Notify"] as const) {
    if (actions.filter((action) => action.type === type).length > 1) throw badParameter(`There is more than one lifetime action of type ${type}.`);
  }
  return { actions, expiryTime };
}

function parseAction(value: JsonValue, path: string, expiryTime: Duration | undefined): LifetimeAction {
  const item = asObject(value);
  const trigger = asObject(item?.["trigger"] ?? null);
  const type = asObject(item?.["action"] ?? null)?.["type"];
  if (trigger === undefined) throw badParameter(`Property ${path}.trigger is missing or no object.`);
  const name = typeof type === "string" ? type.toLowerCase() : "";
  if (name !== "rotate" && name !== "notify") throw badParameter(`Property ${path}.action.type must be Rotate or Notify.`);
  const given = (["timeAfterCreate", "timeBeforeExpiry"] as const).filter((kind) => trigger[kind] !== undefined && trigger[kind] !== null);
  const [kind] = given;
  if (kind === undefined || given.length > 1) throw badParameter(`Property ${path}.trigger must have either timeAfterCreate or timeBeforeExpiry.`);
  const time = parseDuration(trigger[kind] ?? null, `${path}.trigger.${kind}`, MIN_TRIGGER);
  if (name === "rotate" && kind === "timeBeforeExpiry" && expiryTime === undefined) {
    throw badParameter(`Property ${path}.trigger.timeBeforeExpiry needs attributes.expiryTime: else new versions do not expire.`);
  }
  // A version that were to be replaced only when it has expired, or before it is made, would never be.
  if (expiryTime !== undefined && lengthOf(time) + MIN_TRIGGER > lengthOf(expiryTime)) {
    throw badParameter(`Property ${path}.trigger.${kind} must be at least 7 days shorter than attributes.expiryTime.`);
  }
  return { type: name === "rotate" ? "Rotate" : "Notify", trigger: { kind, time } };
}

function parseDuration(value: JsonValue, path: string, least: number): Duration {
  const match =
    typeof value === "string" && value.length <= 40
      ? /^P(?=[\dT])(?:(\d{1,5})Y)?(?:(\d{1,5})M)?(?:(\d{1,5})W)?(?:(\d{1,5})D)?(?:T(?=\d)(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,6})S)?)?$/i.exec(value)
      : null;
  if (match === null) throw badParameter(`Property ${path} must be an ISO 8601 duration such as P90D, P18M or P2Y.`);
  const part = (index: number): number => Number(match[index] ?? 0);
  const duration = {
    text: match[0].toUpperCase(),
    months: part(1) * 12 + part(2),
    seconds: (part(3) * 7 + part(4)) * DAY + part(5) * 3600 + part(6) * 60 + part(7),
  };
  const length = lengthOf(duration);
  if (length < least) throw badParameter(`Property ${path} is ${duration.text}, the minimum is P${least / DAY}D.`);
  if (length > MAX_DURATION) throw badParameter(`Property ${path} is ${duration.text}, the maximum is 100 years.`);
  return duration;
}

/** Seconds, with 28 days a month: no month is shorter, so what passes a minimum does so whenever it begins. */
function lengthOf(duration: Duration): number {
  // 12 months are a year, whatever their lengths.
  return Math.floor(duration.months / 12) * 365 * DAY + (duration.months % 12) * 28 * DAY + duration.seconds;
}

/** Canonical JSON text of a policy, for the store. */
export function encodeRotationPolicy(policy: RotationPolicy): string {
  return JSON.stringify({
    lifetimeActions: policy.actions.map(({ type, trigger }) => ({ trigger: { [trigger.kind]: trigger.time.text }, action: { type } })),
    attributes: { expiryTime: policy.expiryTime?.text },
  });
}

/** A moment later by a duration; months as the calendar has them, cut to the length of the month (January 31 and a month is the end of February). @param from seconds since 1970 */
export function addDuration(from: number, duration: Duration, sign: 1 | -1 = 1): number {
  const date = new Date(from * 1000);
  const day = date.getUTCDate();
  date.setUTCDate(1);
  date.setUTCMonth(date.getUTCMonth() + sign * duration.months);
  const last = new Date(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 0)).getUTCDate();
  date.setUTCDate(Math.min(day, last));
  return Math.floor(date.getTime() / 1000) + sign * duration.seconds;
}

/**
 * When the latest version of a key is to be replaced by a new one, in seconds since 1970; undefined for never.
 * A disabled key is not rotated: the new version would be enabled by nobody.
 */
export function rotationDue(policy: RotationPolicy, latest: Pick<KeyRecord, "created" | "expires" | "enabled">): number | undefined {
  const due = dueOf(policy, latest);
  // Requests cannot say such dates any more, databases and backups may have them.
  return Number.isSafeInteger(due) ? due : undefined;
}

function dueOf(policy: RotationPolicy, latest: Pick<KeyRecord, "created" | "expires" | "enabled">): number | undefined {
  const trigger = policy.actions.find(({ type }) => type === "Rotate")?.trigger;
  if (trigger === undefined || !latest.enabled) return undefined;
  if (trigger.kind === "timeAfterCreate") return addDuration(latest.created, trigger.time);
  // A version that was made before the policy, or without it, has no date of its own: it is taken as if it had got one.
  const expires = latest.expires ?? (policy.expiryTime === undefined ? undefined : addDuration(latest.created, policy.expiryTime));
  return expires === undefined ? undefined : addDuration(expires, trigger.time, -1);
}
