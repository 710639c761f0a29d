import type { JsonValue } from "@sealpod/core";
import { compile, RegoError } from "@sealpod/rego";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EXTENDED_BUILTINS } from "./index.ts";

/** Texts that get past the first check of one function or another. */
const TEXTS: readonly string[] = [
  "",
  "[",
  "(a",
  "😀",
  "\u0000",
  "10.0.0.0/8",
  "::ffff:1.2.3.4/97",
  "2006-01-02",
  "Europe/Paris",
  "https://a/b?c",
  "f47ac10b-58cc-1372-8567-0e02b2c3d479",
  "eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.AAAA",
  '{"kty":"RSA","n":"AQAB","e":"AQAB"}',
  '{"type":"string"}',
  "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----",
  "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----",
  "{ a }",
  "type Query { a: Int }",
  "{{range .}}{{.a}}{{end}}",
  "a: &x [*x]",
];

/** Names that mean something to one function or another, and names of Object.prototype. */
const NAMES: readonly string[] = [
  "type properties items $ref enum allOf not required dependencies pattern format multipleOf",
  "alg cert secret time kty k DNSName CurrentTime KeyUsages method url headers body",
  "Operations Definitions SelectionSet Alias Name Kind Fields Type Elem Arguments Value Raw Children",
  "__proto__ constructor toString ",
].flatMap((names) => names.split(" "));

const operand: fc.Arbitrary<JsonValue> = fc.letrec<{ value: JsonValue }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 4 },
    fc.constantFrom<JsonValue>(null, true, false, 0, 1, -1, 1.5, 5e-324, 1e300, 2n ** 64n, -(2n ** 63n), 1_700_000_000_000_000_000n),
    fc.constantFrom(...TEXTS),
    fc.string({ unit: "binary", maxLength: 20 }),
    fc.array(tie("value"), { maxLength: 4 }),
    fc.dictionary(fc.constantFrom(...NAMES), tie("value"), { maxKeys: 5 }),
  ),
})).value;

describe("every function, for any operands, answers, is undefined, or fails as the engine does", () => {
  it.each(EXTENDED_BUILTINS.filter(({ deprecated }) => deprecated !== true).map(({ name, arity }) => [name, arity] as const))("%s", (name, arity) => {
    const operands = Array.from({ length: arity }, (_, at) => `input[${at}]`).join(", ");
    const policies = [false, true].map((strictBuiltinErrors) =>
      compile([{ name: "t.rego", text: `package t\np := ${name}(${operands})` }], { builtins: EXTENDED_BUILTINS, strictBuiltinErrors }),
    );
    const options = { clock: { now: () => 1_700_000_000_000 }, random: { bytes: (length: number) => new Uint8Array(length) } };
    fc.assert(
      fc.property(fc.array(operand, { minLength: arity, maxLength: arity }), (input) => {
        for (const policy of policies) {
          try {
            policy.evaluate("data.t.p", { ...options, input, limits: { maxSteps: 1_000_000 } });
          } catch (error) {
            expect(error).toBeInstanceOf(RegoError);
          }
        }
      }),
      { numRuns: 50 },
    );
  });
});
