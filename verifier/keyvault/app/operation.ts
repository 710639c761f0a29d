import type { ActionName } from "../access.ts";
import type { VaultKind } from "../key-request.ts";
import type { Exchange } from "./exchange.ts";

/** HTTP methods of the operations. */
export type Method = "DELETE" | "GET" | "PATCH" | "POST" | "PUT";

/** What an operation needs: a permission, to be an administrator of the vault, or one of the two. */
export type Need = ActionName | "administrator" | { readonly administratorOr: ActionName };

/** One operation of the HTTP service. */
export interface Operation {
  /** As the audit calls it, e.g. `keys/get`. */
  readonly name: string;
  readonly method: Method;
  /** Pattern of hono. Paths come in lower case, but for names. */
  readonly paths: readonly string[];
  readonly need: Need;
  /** What roles are looked up for; made of the path alone, before anything is looked up. */
  readonly scope: (exchange: Exchange) => string;
  /** The kind of vault that has the operation; undefined for both. */
  readonly only?: VaultKind;
  /** True for Sealpod's own paths, where `api-version` means nothing. */
  readonly own?: boolean;
  /** Runs after the caller was let in. */
  readonly run: (exchange: Exchange) => Promise<Response>;
}

/** The scope of the key in the path. */
export function keyScope(exchange: Exchange): string {
  return `/keys/${exchange.parameter("name")}`;
}

/** All keys. */
export function keysScope(): string {
  return "/keys";
}

/** The scope of the secret in the path. */
export function secretScope(exchange: Exchange): string {
  return `/secrets/${exchange.parameter("name")}`;
}

/** All secrets. */
export function secretsScope(): string {
  return "/secrets";
}
