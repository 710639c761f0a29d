import { createPrivateKey, generateKeyPair } from "node:crypto";
import { promisify } from "node:util";
import {
  asObject,
  decodeUtf8,
  encodeJson,
  encodeUtf8,
  fromBase64,
  isSealpodError,
  parseJson,
  sha256,
  toBase64,
  toHex,
  type JsonValue,
  type Random,
} from "@sealpod/core";
import type { AuditLine, NewKeyVersion, SecretRecord, VaultStore } from "@sealpod/keyvault";
import { earKey, type EarKey } from "./ear.ts";
import { KbsError } from "./errors.ts";

/** The part of the vault's store that the key broker needs. */
export type KbsStore = Pick<
  VaultStore,
  | "addKey"
  | "key"
  | "openKey"
  | "setSecret"
  | "secret"
  | "openSecret"
  | "listSecrets"
  | "deleteSecret"
  | "deletedSecret"
  | "purgeSecret"
  | "appendAudit"
  | "check"
>;

/** An audit line but for what the state fills in. */
export type StateAudit = Omit<AuditLine, "vault">;

/** Reference values of one key broker: all of them are read for each evaluation. */
const MAX_REFERENCE_VALUES = 500;
const PAGE = 100;
/** Largest value that the store takes, in UTF-8 bytes (Key Vault's own limit). */
export const MAX_VALUE = 25_600;

const SIGNING_KEY = "kbs-token-key";
const SESSION_KEY = "kbs-session-key";
const RESOURCE_POLICY = "kbs-resource-policy";
const ATTESTATION_POLICY = "kbs-attestation-policy";
const REFERENCE_VALUE_PREFIX = "kbs-rv-";

/** Content type of a secret whose value is base64 of a resource's bytes; that of any other secret are the UTF-8 bytes of its value. */
const BASE64_TYPE = "application/vnd.sealpod.kbs.base64";

const generate = promisify(generateKeyPair);

/** What administrators have set. */
export interface Documents {
  readonly resourcePolicy: string | undefined;
  readonly attestationPolicy: string | undefined;
  readonly referenceValues: ReadonlyMap<string, JsonValue>;
}

/**
 * What the key broker keeps, all of it in the vault's store, so that replicas share it: keys, policies and reference values in a vault of its own, which no other face may serve (whoever
 * reads it can sign tokens), and resources as secrets of a vault that others may serve.
 */
export class KbsState {
  readonly #store: KbsStore;
  readonly #vault: string;
  readonly #stateVault: string;
  readonly #random: Random;
  readonly #clock: () => number;
  #signing: Promise<EarKey> | undefined;
  #session: Promise<Uint8Array> | undefined;
  /** Values of the state vault's secrets by name, each with the version that it was read from. */
  #values: ReadonlyMap<string, { readonly version: string; readonly value: string }> = new Map();

  constructor(options: { readonly store: KbsStore; readonly vault: string; readonly stateVault: string; readonly random: Random; readonly now: () => number }) {
    this.#store = options.store;
    this.#vault = options.vault;
    this.#stateVault = options.stateVault;
    this.#random = options.random;
    this.#clock = options.now;
  }

  /** The key that tokens are signed with: made once, by whichever replica needs it first. */
  async signingKey(): Promise<EarKey> {
    this.#signing ??= this.#openSigningKey().catch((error: unknown) => {
      this.#signing = undefined;
      throw error;
    });
    return this.#signing;
  }

  /** The key that session cookies are signed with, 32 bytes. */
  async sessionKey(): Promise<Uint8Array> {
    this.#session ??= this.#openKey(SESSION_KEY, async () => ({
      type: "oct",
      publicMembers: {},
      secret: this.#random.bytes(32),
    })).catch((error: unknown) => {
      this.#session = undefined;
      throw error;
    });
    return this.#session;
  }

  /** Policies and reference values as they are now, also those that another replica has set: one listing, and what has changed since the last. */
  async documents(): Promise<Documents> {
    const records: SecretRecord[] = [];
    for (let after = ""; ;) {
      const page = await this.#store.listSecrets(this.#stateVault, after, PAGE);
      records.push(...page);
      const last = page.at(-1);
      if (last === undefined || page.length < PAGE || records.length > MAX_REFERENCE_VALUES + PAGE) break;
      after = last.name;
    }
    const values = new Map<string, { readonly version: string; readonly value: string }>();
    for (const record of records) {
      const { name, version } = record;
      const known = this.#values.get(name);
      values.set(name, known?.version === version ? known : { version, value: await this.#store.openSecret(record) });
    }
    this.#values = values;
    const referenceValues = new Map<string, JsonValue>();
    for (const [name, { value }] of values) if (name.startsWith(REFERENCE_VALUE_PREFIX)) referenceValues.set(...parseReferenceValue(name, value));
    return { resourcePolicy: values.get(RESOURCE_POLICY)?.value, attestationPolicy: values.get(ATTESTATION_POLICY)?.value, referenceValues };
  }

  /** Keeps a policy. @throws {KbsError} ERR_KBS_TOO_LARGE */
  async setPolicy(kind: "resource" | "attestation", text: string, audit: StateAudit): Promise<void> {
    await this.#replace(this.#stateVault, kind === "resource" ? RESOURCE_POLICY : ATTESTATION_POLICY, text, undefined, audit);
  }

  /**
   * Keeps a reference value.
   * @throws {KbsError} ERR_KBS_TOO_LARGE also when there are too many
   */
  async setReferenceValue(id: string, value: JsonValue, audit: StateAudit): Promise<void> {
    const { referenceValues } = await this.documents();
    if (!referenceValues.has(id) && referenceValues.size >= MAX_REFERENCE_VALUES)
      throw new KbsError("ERR_KBS_TOO_LARGE", `there are ${referenceValues.size} reference values already, the limit is ${MAX_REFERENCE_VALUES}`);
    const name = `${REFERENCE_VALUE_PREFIX}${toHex(sha256(encodeUtf8(id)))}`;
    await this.#replace(this.#stateVault, name, encodeJson({ id, value }), "application/json", audit);
  }

  /** Bytes of a resource, and the version of the secret that has them; undefined if there is none that may be used now. */
  async resource(name: string): Promise<{ readonly bytes: Uint8Array; readonly version: string } | undefined> {
    const record = await this.#store.secret(this.#vault, name);
    const now = Math.floor(this.#clock() / 1000);
    if (record === undefined || !record.enabled || (record.notBefore ?? now) > now || (record.expires ?? now + 1) <= now) return undefined;
    const value = await this.#store.openSecret(record);
    if (record.contentType !== BASE64_TYPE) return { bytes: encodeUtf8(value), version: record.version };
    try {
      return { bytes: fromBase64(value, "the secret"), version: record.version };
    } catch (cause) {
      throw new KbsError("ERR_KBS_STATE", `secret ${name} says that it is base64, and is not`, { cause });
    }
  }

  /**
   * Keeps a resource: text as it is, other bytes as base64.
   * @throws {KbsError} ERR_KBS_TOO_LARGE
   */
  async setResource(name: string, bytes: Uint8Array, audit: StateAudit): Promise<void> {
    const text = plainText(bytes);
    await this.#replace(this.#vault, name, text ?? toBase64(bytes), text === undefined ? BASE64_TYPE : "text/plain; charset=utf-8", audit);
  }

  /** Deletes a resource; it can be recovered through the vault. False if there is none. */
  async deleteResource(name: string, audit: StateAudit): Promise<boolean> {
    return (await this.#store.deleteSecret(this.#vault, name, { ...audit, vault: this.#vault })) !== undefined;
  }

  /** Appends a line about a resource to the audit. */
  async audit(line: StateAudit): Promise<void> {
    await this.#store.appendAudit({ ...line, vault: this.#vault });
  }

  async #replace(vault: string, name: string, value: string, contentType: string | undefined, audit: StateAudit): Promise<void> {
    const { length } = encodeUtf8(value);
    if (length > MAX_VALUE)
      throw new KbsError("ERR_KBS_TOO_LARGE", `it takes ${length} bytes in the vault, more than the limit of ${MAX_VALUE} for a secret`, {
        hint: "Bytes that are no text take a third more, because they are kept as base64.",
      });
    const line = { ...audit, vault };
    // Setting what was deleted begins anew, as it does in CoCo's key broker; the vault would refuse the name for as long as the deleted one can be recovered.
    if ((await this.#store.deletedSecret(vault, name)) !== undefined) await this.#store.purgeSecret(vault, name, line);
    const secret = { vault, name, contentType, enabled: true, notBefore: undefined, expires: undefined, tags: {}, value };
    try {
      await this.#store.setSecret(secret, line);
    } catch (error) {
      // So many versions have come together: what is set most often is what nobody wants the old ones of.
      if (!isSealpodError(error) || error.code !== "ERR_KEYVAULT_LIMIT") throw error;
      await this.#store.deleteSecret(vault, name, line);
      await this.#store.purgeSecret(vault, name, line);
      await this.#store.setSecret(secret, line);
    }
  }

  async #openSigningKey(): Promise<EarKey> {
    const secret = await this.#openKey(SIGNING_KEY, async () => {
      const { privateKey, publicKey } = await generate("ec", { namedCurve: "prime256v1" });
      const { crv = "", x = "", y = "" } = publicKey.export({ format: "jwk" });
      return { type: "EC", publicMembers: { crv, x, y }, secret: new Uint8Array(privateKey.export({ format: "der", type: "pkcs8" })) };
    });
    try {
      return earKey(createPrivateKey({ key: Buffer.from(secret), format: "der", type: "pkcs8" }));
    } catch (cause) {
      throw new KbsError("ERR_KBS_STATE", `key ${SIGNING_KEY} of vault ${this.#stateVault} is no P-256 key`, { cause });
    } finally {
      secret.fill(0);
    }
  }

  /** Opens a key of the state vault, and makes it if it is not there: two replicas that do so at once end up with one. */
  async #openKey(name: string, make: () => Promise<Pick<NewKeyVersion, "type" | "publicMembers" | "secret">>): Promise<Uint8Array> {
    const found = await this.#store.key(this.#stateVault, name);
    if (found !== undefined) return this.#store.openKey(found);
    const material = await make();
    const key: NewKeyVersion = {
      vault: this.#stateVault,
      name,
      ...material,
      hsm: false,
      keyOps: ["sign"],
      enabled: true,
      notBefore: undefined,
      expires: undefined,
      exportable: false,
      tags: {},
      releasePolicy: undefined,
    };
    const line: AuditLine = {
      ...NOBODY,
      requestId: "kbs",
      at: this.#clock(),
      vault: this.#stateVault,
      operation: "kbs/make-key",
      name,
      version: "",
      reason: "the key broker needs it",
    };
    try {
      await this.#store.addKey(key, line, (latest) => {
        if (latest !== undefined) throw new AlreadyThere();
      });
    } catch (error) {
      if (!(error instanceof AlreadyThere)) throw error;
    } finally {
      material.secret.fill(0);
    }
    const made = await this.#store.key(this.#stateVault, name);
    if (made === undefined) throw new KbsError("ERR_KBS_STATE", `key ${name} of vault ${this.#stateVault} was taken away as soon as it was made`);
    return this.#store.openKey(made);
  }
}

/** Another replica was first. */
class AlreadyThere extends Error {}

/** The members of an audit line that a request without a principal leaves empty. */
export const NOBODY: Pick<AuditLine, "tenantId" | "appid" | "oid" | "outcome" | "failed" | "authority" | "findings"> = {
  tenantId: "",
  appid: "",
  oid: "",
  outcome: "allowed",
  failed: undefined,
  authority: "",
  findings: [],
};

function parseReferenceValue(name: string, text: string): readonly [string, JsonValue] {
  const { id, value } = asObject(parseJson(text, name)) ?? {};
  if (typeof id !== "string" || value === undefined) throw new KbsError("ERR_KBS_STATE", `secret ${name} is no reference value`);
  return [id, value];
}

/** The bytes as text, if a secret's value can be that text and nothing is lost. */
function plainText(bytes: Uint8Array): string | undefined {
  try {
    const text = decodeUtf8(bytes);
    // eslint-disable-next-line no-control-regex -- databases do not take it in text
    return /\u0000/.test(text) ? undefined : text;
  } catch {
    return undefined;
  }
}
