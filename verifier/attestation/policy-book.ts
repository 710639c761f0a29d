import type { JsonObject } from "@sealpod/core";
import { parseCertificate } from "@sealpod/pki";
import type { AttestationType } from "./attestation-type.ts";
import { DEFAULT_POLICY_HASH } from "./claims.ts";
import { jwkOf } from "./management.ts";
import { DEFAULT_POLICY_TEXT, parsePolicy, policyHash, type AttestationPolicy } from "./policy/index.ts";
import type { AttestationStore, StoredPolicy } from "./store.ts";

/** A policy ready to be evaluated. */
export interface ActivePolicy {
  /** The JWS that set it; undefined for the default policy. */
  readonly token: string | undefined;
  readonly text: string;
  readonly policy: AttestationPolicy;
  /** `x-ms-policy-hash`. */
  readonly hash: string;
  /** Public key that signed it, as a JWK. */
  readonly signer: JsonObject | undefined;
}

/** The policies of all types, each parsed once for as long as it stands in the store. */
export class PolicyBook {
  readonly #store: AttestationStore;
  readonly #default: ActivePolicy;
  /** By the object that the store holds: it gives another one as soon as the policy has changed, in this process or another. */
  readonly #parsed = new WeakMap<StoredPolicy, ActivePolicy>();

  /** @param defaultHash `x-ms-policy-hash` of the default policy: the text of the genuine one is not published, so its hash cannot be computed */
  constructor(store: AttestationStore, defaultHash: string = DEFAULT_POLICY_HASH) {
    this.#store = store;
    this.#default = { token: undefined, text: DEFAULT_POLICY_TEXT, policy: parsePolicy(DEFAULT_POLICY_TEXT), hash: defaultHash, signer: undefined };
  }

  /** The policy of a type: the one that was set, or the default. */
  get(type: AttestationType): ActivePolicy {
    const stored = this.#store.policy(type);
    if (stored === undefined) return this.#default;
    const parsed = this.#parsed.get(stored) ?? activate(stored);
    this.#parsed.set(stored, parsed);
    return parsed;
  }

  /** @throws {AttestationError} ERR_ATTESTATION_POLICY_SYNTAX, ERR_ATTESTATION_POLICY_LIMIT */
  check(text: string): void {
    parsePolicy(text);
  }
}

function activate({ token, text, signer }: StoredPolicy): ActivePolicy {
  return { token, text, policy: parsePolicy(text), hash: policyHash(text), signer: signer === undefined ? undefined : jwkOf(parseCertificate(signer)) };
}
