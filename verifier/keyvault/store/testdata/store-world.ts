import { randomBytes } from "node:crypto";
import { encodeUtf8, sha256, type Random } from "@sealpod/core";
import type { AuditLine, KeyRecord, NewKeyVersion, NewSecretVersion, SecretRecord } from "../index.ts";

export const START: number = Date.UTC(2026, 0, 15, 12);
/** Seconds at the start. */
export const NOW: number = START / 1000;
export const DAY = 86_400;
export const VAULT = "demo";
export const MASTER: Uint8Array = new Uint8Array(32).fill(7);
export const TENANT = "11111111-2222-4333-8444-555555555555";
export const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };

export const POLICY =
  '{"anyOf":[{"allOf":[{"claim":"x-ms-sevsnpvm-hostdata","equals":"ab"}],"authority":"https://maa.test"}],"version":"1.0.0"}';

/** A line of the audit, as an app would give it. */
export function line(operation: string, name = "", change: Partial<AuditLine> = {}): AuditLine {
  return {
    requestId: `request of ${operation} ${name}`,
    at: START,
    vault: VAULT,
    operation,
    name,
    version: "",
    tenantId: TENANT,
    appid: "app",
    oid: "object",
    outcome: "allowed",
    failed: undefined,
    reason: "",
    authority: "",
    findings: [],
    ...change,
  };
}

/** An exportable HSM key of 32 bytes. */
export function newKey(name: string, change: Partial<NewKeyVersion> = {}): NewKeyVersion {
  return {
    vault: VAULT,
    name,
    type: "oct",
    hsm: true,
    keyOps: ["encrypt", "decrypt"],
    publicMembers: {},
    enabled: true,
    notBefore: undefined,
    expires: undefined,
    exportable: true,
    tags: {},
    releasePolicy: { contentType: "application/json; charset=utf-8", text: POLICY, immutable: false },
    secret: random.bytes(32),
    ...change,
  };
}

export function newSecret(name: string, value: string, change: Partial<NewSecretVersion> = {}): NewSecretVersion {
  return { vault: VAULT, name, value, contentType: undefined, enabled: true, notBefore: undefined, expires: undefined, tags: {}, ...change };
}

/** What is there; a test that misses it fails here. */
export function found<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("expected to find something");
  return value;
}

export const names = (records: readonly (KeyRecord | SecretRecord)[]): readonly string[] => records.map(({ name }) => name);

/** What a request of the writer puts into a key, and into a secret. */
export const keyOf = (request: string): Uint8Array => sha256(encodeUtf8(request));
export const valueOf = (request: string): string => `value of ${request}`;
