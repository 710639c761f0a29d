/**
 * OPA's builtin functions beyond those of `@sealpod/rego`. They stay out of the guest: its agent uses the core alone, and
 * this package brings parsers and libraries that nothing there may depend on. See docs/rego.md.
 */
import type { Builtin } from "@sealpod/rego";
import { awsBuiltins } from "./aws.ts";
import { certificatesBuiltins } from "./certificates/certificates.ts";
import { formatsBuiltins } from "./formats/formats.ts";
import { graphqlBuiltins } from "./graphql/graphql.ts";
import { graphBuiltins } from "./graphs.ts";
import { identifiersBuiltins } from "./identifiers.ts";
import { netBuiltins } from "./net/net.ts";
import { patternBuiltins } from "./patterns.ts";
import { schemaBuiltins } from "./schema/schema.ts";
import { timeBuiltins } from "./time/time.ts";
import { tokensBuiltins } from "./tokens/tokens.ts";

/** For the option `builtins` of `compile`. */
export const EXTENDED_BUILTINS: readonly Builtin[] = [
  netBuiltins,
  timeBuiltins,
  patternBuiltins,
  graphBuiltins,
  identifiersBuiltins,
  formatsBuiltins,
  schemaBuiltins,
  graphqlBuiltins,
  tokensBuiltins,
  certificatesBuiltins,
  awsBuiltins,
].flat();
