import { randomBytes } from "node:crypto";
import type { AuditLine, Deleted, KeyRecord, SecretRecord } from "@sealpod/keyvault";
import type { KbsStore } from "../index.ts";

interface Secret {
  readonly record: SecretRecord;
  readonly value: string;
}

/** The part of the vault's store that the key broker uses, in memory. Names are compared without regard to case, as the real one does. */
export class MemoryStore implements KbsStore {
  readonly lines: AuditLine[] = [];
  readonly #keys = new Map<string, { readonly record: KeyRecord; readonly secret: Uint8Array }>();
  readonly #secrets = new Map<string, Secret>();
  readonly #deleted = new Map<string, Secret>();
  /** Secrets whose values were opened, by name. */
  readonly opened: string[] = [];
  /** Versions that a secret may have before the store refuses another. */
  maxVersions = 500;
  readonly #versions = new Map<string, number>();

  async addKey(...[key, audit, check]: Parameters<KbsStore["addKey"]>): Promise<KeyRecord> {
    const { secret, ...rest } = key;
    const id = idOf(key.vault, key.name);
    check?.(this.#keys.get(id)?.record);
    const record: KeyRecord = { ...rest, version: newVersion(), created: 0, updated: 0 };
    this.#keys.set(id, { record, secret: Uint8Array.from(secret) });
    this.lines.push(audit);
    return Promise.resolve(record);
  }

  async key(vault: string, name: string): Promise<KeyRecord | undefined> {
    return Promise.resolve(this.#keys.get(idOf(vault, name))?.record);
  }

  async openKey(key: KeyRecord): Promise<Uint8Array> {
    return Promise.resolve(Uint8Array.from(this.#keys.get(idOf(key.vault, key.name))?.secret ?? []));
  }

  async setSecret(...[secret, audit]: Parameters<KbsStore["setSecret"]>): Promise<SecretRecord> {
    const id = idOf(secret.vault, secret.name);
    if (this.#deleted.has(id)) return Promise.reject(refusal("ERR_KEYVAULT_CONFLICT"));
    const versions = (this.#versions.get(id) ?? 0) + 1;
    if (versions > this.maxVersions) return Promise.reject(refusal("ERR_KEYVAULT_LIMIT"));
    this.#versions.set(id, versions);
    const { value, ...rest } = secret;
    const record: SecretRecord = { ...rest, version: newVersion(), created: 0, updated: 0 };
    this.#secrets.set(id, { record, value });
    this.lines.push(audit);
    return record;
  }

  async secret(vault: string, name: string): Promise<SecretRecord | undefined> {
    return Promise.resolve(this.#secrets.get(idOf(vault, name))?.record);
  }

  async openSecret(secret: SecretRecord): Promise<string> {
    this.opened.push(secret.name);
    return Promise.resolve(this.#secrets.get(idOf(secret.vault, secret.name))?.value ?? "");
  }

  async listSecrets(vault: string, after: string, limit: number): Promise<readonly SecretRecord[]> {
    const records = [...this.#secrets.values()].map(({ record }) => record).filter((record) => record.vault === vault && record.name > after);
    return Promise.resolve(records.sort((a, b) => (a.name < b.name ? -1 : 1)).slice(0, limit));
  }

  async deleteSecret(...[vault, name, audit]: Parameters<KbsStore["deleteSecret"]>): Promise<Deleted<SecretRecord> | undefined> {
    const id = idOf(vault, name);
    const secret = this.#secrets.get(id);
    if (secret === undefined) return Promise.resolve(undefined);
    this.#secrets.delete(id);
    this.#deleted.set(id, secret);
    this.lines.push(audit);
    return { item: secret.record, deleted: 0, purge: 0 };
  }

  async deletedSecret(vault: string, name: string): Promise<Deleted<SecretRecord> | undefined> {
    const secret = this.#deleted.get(idOf(vault, name));
    return Promise.resolve(secret && { item: secret.record, deleted: 0, purge: 0 });
  }

  async purgeSecret(...[vault, name, audit]: Parameters<KbsStore["purgeSecret"]>): Promise<boolean> {
    this.#versions.delete(idOf(vault, name));
    this.lines.push(audit);
    return Promise.resolve(this.#deleted.delete(idOf(vault, name)));
  }

  async appendAudit(line: AuditLine): Promise<void> {
    this.lines.push(line);
    return Promise.resolve();
  }

  async check(): Promise<void> {
    return Promise.resolve();
  }
}

function idOf(vault: string, name: string): string {
  return `${vault}/${name.toLowerCase()}`;
}

function newVersion(): string {
  return randomBytes(16).toString("hex");
}

function refusal(code: string): Error {
  return Object.assign(new Error(code), { code, row: {}, details: {} });
}
