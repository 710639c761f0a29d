import type { Builtin, Value } from "@sealpod/rego";
import { BuiltinError, define, string } from "@sealpod/rego";
import { renderTemplate } from "./template.ts";
import { decodeYaml } from "./yaml-decode.ts";
import { encodeYaml } from "./yaml-encode.ts";

/** YAML, and text templates. */
export const formatsBuiltins: readonly Builtin[] = [
  define("yaml.marshal", 1, ([value], context) => encodeYaml(value!, context)),
  define("yaml.unmarshal", 1, (args, context) => decodeYaml(string(args, 0), context)),
  define("yaml.is_valid", 1, ([text], context): Value => {
    if (typeof text !== "string") return false;
    try {
      decodeYaml(text, context);
      return true;
    } catch (error) {
      if (error instanceof BuiltinError) return false;
      throw error;
    }
  }),
  define("strings.render_template", 2, renderTemplate),
];
