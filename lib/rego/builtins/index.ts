import { arithmeticBuiltins } from "./arithmetic.ts";
import type { Builtin } from "./builtin.ts";
import { collectionBuiltins } from "./collections.ts";
import { comparisonBuiltins } from "./comparison.ts";
import { encodingBuiltins } from "./encoding.ts";
import { globBuiltins } from "./globs.ts";
import { graphBuiltins } from "./graphs.ts";
import { hostBuiltins } from "./host.ts";
import { objectBuiltins } from "./objects.ts";
import { regexBuiltins } from "./regex.ts";
import { semverBuiltins } from "./semver.ts";
import { stringBuiltins } from "./strings.ts";
import { timeBuiltins } from "./time.ts";
import { typeBuiltins } from "./types.ts";
import { unitBuiltins } from "./units.ts";

const FAMILIES: readonly (readonly Builtin[])[] = [
  comparisonBuiltins,
  arithmeticBuiltins,
  collectionBuiltins,
  stringBuiltins,
  regexBuiltins,
  typeBuiltins,
  encodingBuiltins,
  objectBuiltins,
  semverBuiltins,
  timeBuiltins,
  globBuiltins,
  graphBuiltins,
  unitBuiltins,
  hostBuiltins,
];

/** All builtin functions by name. */
export const BUILTINS: ReadonlyMap<string, Builtin> = new Map(FAMILIES.flat().map((builtin) => [builtin.name, builtin]));
