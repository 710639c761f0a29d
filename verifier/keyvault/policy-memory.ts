import { encodeUtf8 } from "@sealpod/core";
import { parseReleasePolicy, type ReleasePolicy } from "@sealpod/release-policy";

/** Policies that keys are released under at the same time. The one that was not used for longest goes first. */
const MAX_POLICIES = 256;
/** Characters; keeps all of them together within some 16 MiB. Longer ones are parsed each time. */
const MAX_REMEMBERED = 8 * 1024;

/**
 * Remembers what the text of a release policy says: a text says the same each time. Which text counts is read from the key each time, and its conditions are evaluated each time.
 */
export class PolicyMemory {
  readonly #policies = new Map<string, ReleasePolicy>();

  /**
   * The policy of a text.
   * @throws {ReleasePolicyError} ERR_RELEASE_POLICY
   */
  parse(text: string): ReleasePolicy {
    const known = this.#policies.get(text);
    const policy = known ?? parseReleasePolicy(encodeUtf8(text));
    if (text.length > MAX_REMEMBERED) return policy;
    if (known !== undefined) this.#policies.delete(text);
    this.#policies.set(text, policy);
    if (this.#policies.size > MAX_POLICIES) {
      const oldest = this.#policies.keys().next();
      if (oldest.done !== true) this.#policies.delete(oldest.value);
    }
    return policy;
  }

  /** How many it holds. */
  get size(): number {
    return this.#policies.size;
  }
}
