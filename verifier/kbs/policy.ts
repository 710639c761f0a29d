import { encodeJson, isSealpodError, messageOf, type Clock, type JsonObject, type JsonValue } from "@sealpod/core";
import { compile, parseRego, type Policy, type RegoLimits, type RegoVersion } from "@sealpod/rego";
import { USELESS } from "./admin.ts";
import { TRUST_CLAIMS, type TrustVector } from "./ear.ts";
import { KbsError } from "./errors.ts";

/**
 * The attestation policy where none was set: executables, hardware and configuration of an SEV-SNP guest, by the reference values that an administrator registered. Without any the guest's
 * status is `contraindicated`, so nothing follows from evidence that nobody has an opinion about.
 */
export const DEFAULT_ATTESTATION_POLICY = `package policy

import rego.v1

# Numbers are those of AR4SI: 2 and 3 affirm, 33 and 36 warn, 97 contraindicates.

default executables := 33

# What was launched is what an administrator expects.
executables := 3 if input.snp.measurement in query_reference_value("snp_launch_measurement")

default hardware := 97

# The firmware under the guest is of versions that are still good.
hardware := 2 if {
	input.snp.reported_tcb_bootloader in query_reference_value("snp_bootloader")
	input.snp.reported_tcb_microcode in query_reference_value("snp_microcode")
	input.snp.reported_tcb_snp in query_reference_value("snp_snp_svn")
	input.snp.reported_tcb_tee in query_reference_value("snp_tee_svn")
}

default configuration := 36

# The host can neither read the guest's memory nor carry it off.
closed if {
	input.snp.policy_debug_allowed == false
	input.snp.policy_migrate_ma == false
}

expected if {
	input.snp.platform_smt_enabled in query_reference_value("snp_smt_enabled")
	input.snp.platform_tsme_enabled in query_reference_value("snp_tsme_enabled")
	input.snp.policy_abi_major in query_reference_value("snp_guest_abi_major")
	input.snp.policy_abi_minor in query_reference_value("snp_guest_abi_minor")
	input.snp.policy_single_socket in query_reference_value("snp_single_socket")
	input.snp.policy_smt_allowed in query_reference_value("snp_smt_allowed")
}

configuration := 2 if {
	closed
	expected
}

configuration := 3 if {
	closed
	not expected
}
`;

/**
 * The resource policy where none was set. CoCo's own default lets any evidence have any resource that is not from its sample attester; this one asks that all of it is affirmed, and that the guest runs
 * what an administrator named: its HOST_DATA, the hash of its agent policy or init data, is one of the reference value `snp_host_data` (hex). The launch measurement is that of the virtual
 * machine alone, which is the same for every pod. Without that reference value nobody has anything.
 */
export const DEFAULT_RESOURCE_POLICY = `package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	count(input.submods) > 0
	every submod in input.submods {
		submod["ear.status"] == "affirming"
		not sample(submod)
		expected(submod)
	}
}

expected(submod) if {
	some host_data in query_reference_value("snp_host_data")
	lower(host_data) == submod["ear.veraison.annotated-evidence"].init_data
}

sample(submod) if submod["ear.veraison.annotated-evidence"].sample
`;

/** Policies come from administrators, who are trusted with the verdict and not with the machine: one evaluation ends within a second. */
const LIMITS: Partial<RegoLimits> = { maxSourceLength: 64 * 1024, maxSteps: 2_000_000, maxMilliseconds: 1000, maxMemory: 64 * 1024 * 1024 };
/** Compiled texts that are kept: those in use, and those of the replicas that are about to change. */
const MAX_COMPILED = 8;

/** The two policies of a key broker. */
export type PolicyKind = "resource" | "attestation";

/** Rules of `package policy`, of which a policy of a kind has to have one: what is asked for by another name is nowhere, and then every guest is refused without a word why. */
const VERDICTS: Readonly<Record<PolicyKind, readonly string[]>> = { resource: ["allow"], attestation: ["executables", "hardware", "configuration"] };
/** Names of rules that a message repeats. */
const MAX_NAMED = 8;

/** A text that was compiled, and the dialect that it is in. */
interface Compiled {
  readonly policy: Policy;
  readonly version: RegoVersion;
}

/** Evaluates the policies of CoCo's key broker with the Rego engine of this project (specs/attestation.md 9.2, 9.3). */
export class PolicyEngine {
  readonly #clock: Clock;
  readonly #compiled = new Map<string, Compiled>();
  /** Those of the evaluation under way, which is synchronous. */
  #referenceValues: ReadonlyMap<string, JsonValue> = new Map();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Refuses a text that is no policy of its kind, before it is stored. Both dialects of Rego are taken: v1, else v0.
   * @throws {KbsError} ERR_KBS_POLICY_SYNTAX; with {@link USELESS} for Rego that gives no verdict of this kind
   */
  check(text: string, kind: PolicyKind): void {
    const { version } = this.#compile(text);
    const { packagePath, rules } = parseRego(text, { name: "policy", version, limits: LIMITS });
    // Functions and sets are no verdicts, whatever they hold.
    const isVerdict = ({ path, parameters, item }: (typeof rules)[number]["head"]): boolean =>
      path.length === 0 && parameters === undefined && item === undefined;
    const names = new Set(rules.filter(({ head }) => isVerdict(head)).map(({ head }) => head.name));
    const own = packagePath.join(".");
    if (own === "policy" && VERDICTS[kind].some((name) => names.has(name))) return;
    const wanted = VERDICTS[kind].map((name) => `data.policy.${name}`).join(", ");
    const found = names.size === 0 ? "no rule with a value" : [...names].slice(0, MAX_NAMED).join(", ") + (names.size > MAX_NAMED ? ", …" : "");
    const other = kind === "resource" ? "attestation" : "resource";
    const isOther = own === "policy" && VERDICTS[other].some((name) => names.has(name));
    throw new KbsError(
      "ERR_KBS_POLICY_SYNTAX",
      `the policy gives no verdict: it has package ${own.slice(0, 100)} with ${found.slice(0, 300)}, expected ${kind === "resource" ? wanted : `one of ${wanted}`}`,
      {
        details: USELESS,
        hint: isOther
          ? `That is ${other === "resource" ? "a resource" : "an attestation"} policy: set it as such.`
          : `${kind === "resource" ? "A resource" : "An attestation"} policy begins with "package policy" and has a rule of that name.`,
      },
    );
  }

  /**
   * The trustworthiness vector that an attestation policy gives evidence.
   * @param evidence the policy's `input`
   * @param referenceValues what `query_reference_value` answers from; a value that is not there is the empty list
   * @throws {KbsError} ERR_KBS_POLICY
   */
  appraise(text: string, evidence: JsonObject, referenceValues: ReadonlyMap<string, JsonValue>): TrustVector {
    this.#referenceValues = referenceValues;
    try {
      const claim = (name: string): number => {
        const value = this.#evaluate("attestation policy", text, name, evidence, {});
        if (value === undefined) return 0;
        if (typeof value !== "number" || !Number.isInteger(value) || value < -128 || value > 127)
          throw new KbsError(
            "ERR_KBS_POLICY",
            `the attestation policy gives ${name} the value ${encodeJson(value).slice(0, 40)}, expected an integer from -128 to 127`,
          );
        return value;
      };
      return Object.fromEntries(Object.keys(TRUST_CLAIMS).map((name) => [name, claim(name)])) as TrustVector;
    } finally {
      this.#referenceValues = new Map();
    }
  }

  /**
   * True if the resource policy lets a guest have a resource: `data.policy.allow` is true, and nothing else. Resource policies may use `query_reference_value` here, which Trustee gives to
   * attestation policies alone.
   * @param path repository, type and tag
   * @throws {KbsError} ERR_KBS_POLICY
   */
  allows(text: string, path: readonly string[], query: JsonObject, claims: JsonObject, referenceValues: ReadonlyMap<string, JsonValue>): boolean {
    this.#referenceValues = referenceValues;
    try {
      return this.#evaluate("resource policy", text, "allow", claims, { plugin: "resource", "resource-path": path, query }) === true;
    } finally {
      this.#referenceValues = new Map();
    }
  }

  #evaluate(what: string, text: string, rule: string, input: JsonObject, data: JsonObject): JsonValue | undefined {
    try {
      const { results } = this.#compile(text).policy.evaluate(`data.policy.${rule}`, { input, data, clock: this.#clock, prints: false });
      return results[0]?.expressions[0];
    } catch (cause) {
      // Whatever stops a policy, a limit included, is no verdict; and no verdict gives nothing away.
      if (!isSealpodError(cause)) throw cause;
      throw new KbsError("ERR_KBS_POLICY", `the ${what} cannot be evaluated: ${messageOf(cause).slice(0, 1000)}`, { cause });
    }
  }

  #compile(text: string): Compiled {
    const known = this.#compiled.get(text);
    if (known !== undefined) return known;
    const compiled = this.#compileAnew(text);
    this.#compiled.set(text, compiled);
    const [oldest] = this.#compiled.keys();
    if (this.#compiled.size > MAX_COMPILED && oldest !== undefined) this.#compiled.delete(oldest);
    return compiled;
  }

  #compileAnew(text: string): Compiled {
    const compileAs = (version: RegoVersion): Compiled => {
      const policy = compile([{ name: "policy", text }], {
        version,
        limits: LIMITS,
        hostFunctions: [
          { name: "query_reference_value", arity: 1, call: (id) => (typeof id === "string" ? (this.#referenceValues.get(id) ?? []) : undefined) },
        ],
      });
      return { policy, version };
    };
    try {
      return compileAs("v1");
    } catch (cause) {
      if (!isSealpodError(cause)) throw cause;
      try {
        return compileAs("v0");
      } catch (second) {
        if (!isSealpodError(second)) throw second;
        throw new KbsError("ERR_KBS_POLICY_SYNTAX", `the policy is no Rego: ${messageOf(cause).slice(0, 1000)}`, { cause });
      }
    }
  }
}
