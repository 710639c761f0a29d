import { toHex } from "@sealpod/core";
import type { Builtin, BuiltinContext, RegoArray, Value } from "@sealpod/rego";
import { define, object, RegoObject, string } from "@sealpod/rego";
import { decodeBase64url } from "../encodings.ts";
import { encodeGoJson, parseJsonObject } from "../json-text.ts";
import { isSignedBy, payloadText, readHeader, splitToken } from "./token.ts";
import { TOKEN_ALGORITHMS } from "./token-algorithms.ts";
import { meetsConstraints, parseConstraints } from "./token-constraints.ts";
import { parseVerificationKeys, secretKey } from "./token-keys.ts";
import { signToken } from "./token-signing.ts";

/** JSON Web Tokens (RFC 7515, RFC 7519): reading, verifying and making them. */
export const tokensBuiltins: readonly Builtin[] = [
  define("io.jwt.decode", 1, decode),
  define("io.jwt.decode_verify", 2, decodeVerify),
  ...TOKEN_ALGORITHMS.map(({ name, family }) =>
    define(`io.jwt.verify_${name.toLowerCase()}`, 2, (args, context) => {
      const parts = splitToken(string(args, 0), context);
      const material = string(args, 1);
      const keys = family === "secret" ? [secretKey(material)] : parseVerificationKeys(material, context);
      const header = readHeader(parts, "refuse", context);
      // OPA leaves this out: there the function alone says how, and a header that says otherwise passes.
      return header.alg === name && isSignedBy(parts, header, keys, context);
    }),
  ),
  define("io.jwt.encode_sign", 3, ([header, payload, key], context) => {
    return signToken(encodeGoJson(header!, context), encodeGoJson(payload!, context), encodeGoJson(key!, context), context);
  }),
  define("io.jwt.encode_sign_raw", 3, (args, context) => signToken(string(args, 0), string(args, 1), string(args, 2), context)),
];

/** Header, payload and signature in hex of a token that nobody has verified. Of nested tokens the innermost. */
function decode(args: RegoArray, context: BuiltinContext): Value {
  let text = string(args, 0);
  // Each level of nesting is a quarter shorter than the one around it.
  for (;;) {
    const parts = splitToken(text, context);
    const { fields, nested } = readHeader(parts, "last", context);
    const payload = payloadText(parts);
    if (!nested) {
      const claims = parseJsonObject(payload, "JWT payload", "last", context);
      return [fields, claims, toHex(decodeBase64url(parts.signature, "JWT signature", true))];
    }
    text = withoutQuotes(payload);
  }
}

/** `[true, header, claims]` of a token that meets the constraints, else `[false, {}, {}]`. */
function decodeVerify(args: RegoArray, context: BuiltinContext): Value {
  const constraints = parseConstraints(object(args, 1), context);
  const refused: Value = [false, RegoObject.empty, RegoObject.empty];
  let text = string(args, 0);
  for (;;) {
    const parts = splitToken(text, context);
    const header = readHeader(parts, "refuse", context);
    if (constraints.alg !== undefined && constraints.alg !== header.alg) return refused;
    if (!isSignedBy(parts, header, constraints.keys, context)) return refused;
    const payload = payloadText(parts);
    if (!header.nested) {
      const claims = parseJsonObject(payload, "JWT payload", "refuse", context);
      return meetsConstraints(claims, constraints) ? [true, header.fields, claims] : refused;
    }
    text = payload;
  }
}

/** Some issuers write a nested token as a JSON string. */
function withoutQuotes(text: string): string {
  let start = 0;
  let end = text.length;
  while (start < end && (text[start] === '"' || text[start] === "'")) start++;
  while (end > start && (text[end - 1] === '"' || text[end - 1] === "'")) end--;
  return text.slice(start, end);
}
