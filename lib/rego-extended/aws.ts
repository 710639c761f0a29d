import type { Builtin } from "@sealpod/rego";

/** Functions of this family. */
export const awsBuiltins: readonly Builtin[] = [];
