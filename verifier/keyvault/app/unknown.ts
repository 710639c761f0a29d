import { KeyvaultError } from "../errors.ts";
import type { Exchange } from "./exchange.ts";
import type { Operation } from "./operation.ts";
import { canonicalPath } from "./paths.ts";

/** What the genuine services have and this one does not. */
const NOT_HERE =
  /^\/(certificates|deletedcertificates|storage|deletedstorage|securitydomain|settings|backup|restore|ekm)(\/|$)|^\/keys\/[^/]+(\/[^/]+)?\/attestation$/;

/**
 * Refuses a request that no operation of this kind of vault answers: another method, an operation of the genuine service that is not here, or none at all.
 * @throws {KeyvaultError} ERR_KEYVAULT_METHOD, ERR_KEYVAULT_UNSUPPORTED, ERR_KEYVAULT_NOT_FOUND
 */
export function refuseUnknown(operations: readonly Operation[], exchange: Exchange): never {
  const { method } = exchange.context.req;
  const path = canonicalPath(exchange.context.req.raw);
  const what = `${method} ${path.slice(0, 200)}`;
  const { kind } = exchange.vault;
  // Before the operations: "attestation" could be the version of a key.
  if (NOT_HERE.test(path))
    throw new KeyvaultError("ERR_KEYVAULT_UNSUPPORTED", `${what} is not implemented by this key vault: it keeps keys and secrets, and releases keys.`);
  const here = operations.filter((operation) => (operation.only ?? kind) === kind && operation.paths.some((pattern) => fits(pattern, path)));
  if (here.length > 0) {
    const allowed = [...new Set(here.map((operation) => operation.method))].toSorted().join(", ");
    exchange.context.header("allow", allowed);
    throw new KeyvaultError("ERR_KEYVAULT_METHOD", `There is no operation ${what}, expected ${allowed}.`);
  }
  throw new KeyvaultError("ERR_KEYVAULT_NOT_FOUND", `There is no operation ${what}.`, { details: { inner: "NotFound" } });
}

function fits(pattern: string, path: string): boolean {
  const [expected, found] = [pattern.split("/"), path.split("/")];
  return expected.length === found.length && expected.every((part, index) => part === found[index] || (part.startsWith(":") && found[index] !== ""));
}
