import { Command } from "commander";
import { isSealpodError, parseJson, type JsonValue } from "@sealpod/core";
import type { CliContext } from "../context.ts";
import type { DeclareVerb, Verb } from "../program.ts";
import { addKeyPolicyVerbs, addKeyVerbs, addRoleAssignmentVerbs, addRotationPolicyVerbs, addSecretVerbs } from "./commands.ts";
import { vaultClient, type Vault } from "./vault-client.ts";
import type { VaultFetchRequest } from "./vault-fetch.ts";

/** What the scripted vault was sent. */
export interface Sent {
  readonly method: string;
  /** Path with its query, without `api-version`. */
  readonly path: string;
  readonly body: JsonValue | undefined;
}

/** What it answers: JSON with 200, or a status with JSON. */
export type Reply = (sent: Sent) => unknown;

/** An answer of a scripted vault that is not 200. */
export class Status {
  readonly status: number;
  readonly body: unknown;
  constructor(status: number, body: unknown = {}) {
    this.status = status;
    this.body = body;
  }
}

/** What a command line did. */
export interface Ran {
  readonly exit: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
  readonly sent: readonly Sent[];
  /** Undefined if it did not fail. */
  readonly error:
    | { readonly code: string; readonly message: string; readonly hint: string | undefined; readonly details: Readonly<Record<string, unknown>> }
    | undefined;
}

/** Vault of the tests. */
export const BASE = "https://demo.vault.test:8443";
/** 2026-01-02T00:00:00Z. */
export const NOW: number = Date.UTC(2026, 0, 2);

/** The world of a command line. */
export interface RunOptions {
  /** In place of the scripted one. */
  readonly vault?: Vault;
  readonly reply?: Reply;
  readonly cwd?: string;
  readonly stdin?: string;
  readonly signal?: AbortSignal;
  readonly env?: Readonly<Record<string, string>>;
}

type Operation = (vault: Vault | (() => Promise<Vault>), options: object, operands: readonly string[], context: CliContext) => Promise<number>;

/** Runs `sealpod key …` against a scripted vault: the flags are parsed as they are declared, the requests go through the real client. */
export async function key(argv: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const sent: Sent[] = [];
  const written = { stdout: "", stderr: "" };
  const context: CliContext = {
    env: { SEALPOD_HOME: "/nowhere/state", HOME: "/nowhere", ...options.env },
    cwd: options.cwd ?? "/nowhere",
    stdin: (async function* () {
      yield new TextEncoder().encode(options.stdin ?? "");
    })(),
    stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
    stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
    clock: { now: () => NOW },
    elapsed: () => 0,
    random: { bytes: (length) => new Uint8Array(length).fill(7) },
    signal: options.signal ?? new AbortController().signal,
  };
  const vault =
    options.vault ??
    vaultClient({
      base: BASE,
      tenantId: "tenant-1",
      token: async () => Promise.resolve("t0ken"),
      fetch: async (url, request) => Promise.resolve(answer(url, request, sent, options.reply ?? (() => ({})))),
    });
  let exit: number | undefined;
  const program = new Command("key").exitOverride().configureOutput({ writeOut: () => undefined, writeErr: () => undefined });
  const declareIn =
    (parent: Command): DeclareVerb =>
    (usage, _summary, _examples, load) => {
      const command = parent.command(usage).option("--json").option("--debug").option("--state <dir>").exitOverride();
      command.action(async () => {
        const module = (await load()) as { readonly operation?: Operation; readonly run: Verb<object> };
        const { operation } = module;
        if (operation === undefined) exit = await module.run(command.opts(), command.args, context);
        else exit = await operation(command.name() === "simulate" ? async () => Promise.resolve(vault) : vault, command.opts(), command.args, context);
      });
      return command;
    };
  const group = (name: string): DeclareVerb => declareIn(program.command(name).exitOverride());
  addKeyVerbs(declareIn(program));
  addKeyPolicyVerbs(group("policy"));
  addRotationPolicyVerbs(group("rotation-policy"));
  addSecretVerbs(group("secret"));
  addRoleAssignmentVerbs(group("role-assignment"));
  try {
    await program.parseAsync(argv, { from: "user" });
    return { exit, ...written, sent, error: undefined };
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    const { code, message, hint, details, row } = error;
    return { exit: row.exit, ...written, sent, error: { code, message, hint, details } };
  }
}

function answer(url: string, { method, headers, body }: VaultFetchRequest, sent: Sent[], reply: Reply): { status: number; text: string; requestId: string } {
  const { origin, pathname, searchParams } = new URL(url);
  if (origin !== BASE || headers["authorization"] !== "Bearer t0ken") throw new Error(`not for this vault: ${url}`);
  if (searchParams.get("api-version") !== "7.4") throw new Error(`no api-version: ${url}`);
  searchParams.delete("api-version");
  const query = searchParams.toString();
  const request: Sent = { method, path: query === "" ? pathname : `${pathname}?${query}`, body: body === undefined ? undefined : parseJson(body) };
  sent.push(request);
  const value = reply(request);
  const { status, body: content } = value instanceof Status ? value : { status: 200, body: value };
  return { status, text: content === undefined ? "" : typeof content === "string" ? content : JSON.stringify(content), requestId: "req-1" };
}

/** The base64url of a JSON value or text. */
export function base64url(value: unknown): string {
  return Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
}

/** A token with these claims, and a signature of nobody. */
export function tokenOf(claims: object): string {
  return `${base64url({ alg: "RS256" })}.${base64url(claims)}.${base64url("signature")}`;
}
