import { anyoneCanSatisfy, openToDebugging, type ReleasePolicy } from "@sealpod/release-policy";
import { ImportKeyError } from "./errors.ts";

/**
 * Refuses a release policy that gives the key to pods which its owner did not choose.
 * @param allowed the owner wants it so
 * @throws {ImportKeyError} ERR_IMPORTKEY_WEAK with one reason per branch
 */
export function requireStrong(policy: ReleasePolicy, allowed: boolean): void {
  const weaknesses = allowed ? [] : anyoneCanSatisfy(policy);
  if (weaknesses.length === 0) return;
  const reasons = weaknesses.map(({ reason }) => `  - ${reason}`).join("\n");
  throw new ImportKeyError("ERR_IMPORTKEY_WEAK", `the release policy would give the key to others than the pod:\n${reasons}`, {
    details: { paths: weaknesses.map(({ path }) => path) },
    hint: "Add the conditions, or pass --allow-any if that is what you want.",
  });
}

/** What a policy gives to others than its owner's pods, one line each: for an owner who has allowed it. */
export function overriddenWeaknesses(policy: ReleasePolicy): readonly string[] {
  return anyoneCanSatisfy(policy).map(({ reason }) => `taken because of --allow-any: ${reason}`);
}

/** What a policy allows that its owner should know, though nobody else gets the key by it; one line each. */
export function cautionsOf(policy: ReleasePolicy): readonly string[] {
  return openToDebugging(policy).map(({ reason }) => reason);
}
