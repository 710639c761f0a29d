import { RegoObject } from "../values/index.ts";
import type { Builtin } from "./builtin.ts";
import { define, string } from "./builtin.ts";

/** Functions that look outside the policy. They see nothing but what the caller gave to the evaluation. */
export const hostBuiltins: readonly Builtin[] = [
  // An agent has nothing to tell a policy about itself: the environment is not part of what is measured.
  define("opa.runtime", 0, () => RegoObject.empty),
  define("trace", 1, (args) => {
    string(args, 0);
    return true;
  }),
];
