import { badParameter } from "../errors.ts";

/**
 * Runs a decryption; whatever fails inside of it is one error with one text. Which check failed (padding, tag, integrity value) is what
 * padding oracles are made of (Vaudenay 2002, Manger 2001).
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function undecipherable<T>(work: () => T): T {
  try {
    return work();
  } catch {
    // Without the cause: it would go to the log, and logs are read by more people than keys are given to.
    throw badParameter("The value cannot be decrypted with this key and algorithm.");
  }
}
