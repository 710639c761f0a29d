import type { Context } from "hono";
import { asObject, decodeUtf8, isSealpodError, messageOf, parseJson, type Clock, type JsonObject, type Logger, type Random } from "@sealpod/core";
import { requestBody, requestContext } from "@sealpod/service";
import type { AccessVault } from "../access.ts";
import type { Caller } from "../bearer.ts";
import { badParameter, KeyvaultError } from "../errors.ts";
import type { JsonBody } from "../key-bundle.ts";
import { parseKeyName, parseSecretName } from "../key-request.ts";
import type { ReleaseContext } from "../release.ts";
import type { AuditCheck, AuditLine, VaultStore } from "../store/types.ts";

/** An attestation token with a large policy around it is below 100 KiB. */
const MAX_BODY = 1024 * 1024;

/** Variables of the application's context. */
export interface KeyvaultEnv {
  Variables: { requestId: string };
}

/** Where backups can be restored: into the vault that they are of, by its name, or into every vault of the same kind. */
export type RestoreScope = "same-vault" | "any-vault-of-kind";

/** What operations work with. */
export interface KeyvaultServices {
  readonly store: VaultStore;
  readonly releases: ReleaseContext;
  readonly restoreInto: RestoreScope;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** The parts of an {@link Exchange} that are known once its caller is. */
export interface ExchangeStart {
  readonly vault: AccessVault;
  readonly caller: Caller;
  /** Base URL that the client used: ids are made of it. */
  readonly base: string;
  /** "" for operations of Sealpod's own. */
  readonly apiVersion: string;
  readonly requestId: string;
  /** As the audit calls it. */
  readonly operation: string;
  /** See {@link Exchange.admitAgain}. */
  readonly admitAgain: () => Promise<void>;
}

/** What of a line of the audit an operation may say. */
export type AuditNote = Partial<Pick<AuditLine, "name" | "version" | "reason">>;

/** One request of a known caller to one vault, and its one line of the audit. */
export class Exchange {
  readonly services: KeyvaultServices;
  readonly context: Context<KeyvaultEnv>;
  readonly vault: AccessVault;
  readonly caller: Caller;
  readonly base: string;
  readonly apiVersion: string;
  readonly requestId: string;
  readonly operation: string;
  /**
   * Looks once more at who calls, and at what they may do: for whoever has waited for somebody else since, in which time the token may have expired and the permission been taken away.
   * @throws {KeyvaultError} ERR_KEYVAULT_UNAUTHORIZED, ERR_KEYVAULT_ACCESS, ERR_KEYVAULT_ISSUER
   */
  readonly admitAgain: () => Promise<void>;
  #note: AuditNote = {};
  #audited = false;

  constructor(services: KeyvaultServices, context: Context<KeyvaultEnv>, start: ExchangeStart) {
    this.services = services;
    this.context = context;
    this.vault = start.vault;
    this.caller = start.caller;
    this.base = start.base;
    this.apiVersion = start.apiVersion;
    this.requestId = start.requestId;
    this.operation = start.operation;
    this.admitAgain = start.admitAgain;
  }

  get store(): VaultStore {
    return this.services.store;
  }

  /** Aborted when nobody waits for the answer any more. */
  get signal(): AbortSignal {
    return requestContext(this.context).signal;
  }

  /** A parameter of the path, as the client wrote it; "" if the path has none of this name. */
  parameter(name: string): string {
    return this.context.req.param(name) ?? "";
  }

  /**
   * The name of the key in the path.
   * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
   */
  keyName(): string {
    return parseKeyName(this.parameter("name"));
  }

  /** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER */
  secretName(): string {
    return parseSecretName(this.parameter("name"));
  }

  /** The version in the path; undefined for the latest. */
  version(): string | undefined {
    return this.context.req.param("version");
  }

  /**
   * The body, a strict JSON object.
   * @throws {KeyvaultError} ERR_KEYVAULT_MEDIA_TYPE, ERR_KEYVAULT_TOO_LARGE, ERR_KEYVAULT_BAD_PARAMETER, and those of {@link admitAgain}
   */
  async body(limit: number = MAX_BODY): Promise<JsonObject> {
    const type = (this.context.req.header("content-type") ?? "application/json").split(";")[0]?.trim().toLowerCase();
    if (type !== "application/json") {
      throw new KeyvaultError("ERR_KEYVAULT_MEDIA_TYPE", `The content type must be application/json, found ${JSON.stringify((type ?? "").slice(0, 100))}.`);
    }
    const bytes = await this.#bytes(limit);
    try {
      const body = asObject(parseJson(decodeUtf8(bytes, "the request body"), "the request body", { maxLength: limit, maxDepth: 32 }));
      if (body !== undefined) return body;
    } catch (cause) {
      throw badParameter(`The request body is not strict JSON: ${messageOf(cause)}.`, undefined, cause);
    }
    throw badParameter("The request body is not a JSON object.");
  }

  async #bytes(limit: number): Promise<Uint8Array> {
    try {
      const bytes = await requestBody(this.context, limit);
      // A service has read the body before it calls the application. Where there is none, the client lets it come when it likes.
      if (requestContext(this.context).body === undefined) await this.admitAgain();
      return bytes;
    } catch (cause) {
      if (!isSealpodError(cause) || cause.code !== "ERR_SERVICE_BODY") throw cause;
      throw new KeyvaultError("ERR_KEYVAULT_TOO_LARGE", `The request body is larger than ${limit} bytes.`, { cause });
    }
  }

  /** A parameter of the query. Clients may percent-encode its name: URLSearchParams decodes it. */
  query(name: string): string | null {
    return new URL(this.context.req.url).searchParams.get(name);
  }

  json(body: JsonBody, status: 200 | 201 = 200): Response {
    return this.context.json(body, status);
  }

  /** Adds to the line of the audit what only the operation knows. */
  note(note: AuditNote): void {
    this.#note = { ...this.#note, ...note };
  }

  /** True once the line is written. */
  get audited(): boolean {
    return this.#audited;
  }

  /** Another part writes the line, whatever comes of it: a release does, because it knows the claims. */
  delegateAudit(): void {
    this.#audited = true;
  }

  /** The line as it stands. */
  line(): AuditLine {
    const { caller, vault } = this;
    return {
      requestId: this.requestId,
      at: this.services.clock.now(),
      vault: vault.name,
      operation: this.operation,
      name: this.parameter("name"),
      version: this.version() ?? "",
      tenantId: caller.tenantId,
      appid: caller.appid,
      oid: caller.oid,
      outcome: "allowed",
      failed: undefined,
      reason: "",
      authority: "",
      findings: [],
      ...this.#note,
    };
  }

  /** A change of the store, with the line in the same transaction. What changes nothing (undefined, false) leaves no line behind: its refusal will. */
  async change<T>(work: (audit: AuditLine) => Promise<T>): Promise<T> {
    const result = await work(this.line());
    if (result !== undefined && result !== false) this.#audited = true;
    return result;
  }

  /** Writes the line of a request that changed nothing and is about to be answered. */
  async auditAllowed(): Promise<void> {
    if (this.#audited) return;
    await this.store.appendAudit(this.line());
    this.#audited = true;
  }

  /** Writes the line of a request that is about to be refused. */
  async auditRefused(error: unknown): Promise<void> {
    if (this.#audited) return;
    this.#audited = true;
    await this.store.appendAudit({ ...this.line(), outcome: "refused", failed: failedCheck(error), reason: messageOf(error) });
  }
}

function failedCheck(error: unknown): AuditCheck {
  if (!(error instanceof KeyvaultError)) return "service";
  switch (error.code) {
    case "ERR_KEYVAULT_ACCESS":
    case "ERR_KEYVAULT_UNAUTHORIZED":
      return "access";
    case "ERR_KEYVAULT_KEY_OPERATION":
    case "ERR_KEYVAULT_NOT_FOUND":
      return "key";
    case "ERR_KEYVAULT_ISSUER":
      return "issuer";
    default:
      return error.row.http === 500 ? "service" : "request";
  }
}
