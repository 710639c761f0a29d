import type { Builtin } from "@sealpod/rego";

/** Functions of this family. */
export const identifiersBuiltins: readonly Builtin[] = [];
