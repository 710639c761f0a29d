import { KeyvaultError } from "../errors.ts";

/** What names are compared and sorted by: they are ASCII, and differ by more than letter case. */
export function nameKey(name: string): string {
  return name.toLowerCase();
}

/** `Key` or `Secret`, as the service's messages begin. */
export type Noun = "Key" | "Secret";

/** The answer to anything that would make a key or secret under the name of a deleted one. */
export function deletedConflict(noun: Noun, name: string): KeyvaultError {
  return new KeyvaultError(
    "ERR_KEYVAULT_CONFLICT",
    `${noun} ${name} is currently in a deleted but recoverable state, and its name cannot be reused; it can only be recovered or purged.`,
    { details: { inner: "ObjectIsDeletedButRecoverable" } },
  );
}
