import { asArray, asObject, encodeJson, fromAnyBase64, isSealpodError, sha256, toHex, type JsonObject, type JsonValue } from "@sealpod/core";
import { formatName, parseCertificate } from "@sealpod/pki";
import { printable } from "../rego/output.ts";

/** Characters. What is longer `--json` has whole. */
const MAX_VALUE = 200;

/** What a service says of a change, one claim on a line; of its signer who it is. Ends in a newline. */
export function resultText(claims: JsonObject): string {
  const entries = Object.entries(claims).filter(([name]) => name.startsWith("x-ms-policy"));
  return entries.map(([name, value]) => `${name}: ${printable(name === "x-ms-policy-signer" ? signerText(value) : valueText(value))}\n`).join("");
}

/** Subject and SHA-256 of the certificate in a key (JWK), which the service has verified, not we. */
function signerText(value: JsonValue): string {
  const [certificate] = asArray(asObject(value)?.["x5c"]) ?? [];
  try {
    if (typeof certificate !== "string") return valueText(value);
    const { subject, der } = parseCertificate(fromAnyBase64(certificate));
    return `${formatName(subject)}, certificate with SHA-256 ${toHex(sha256(der))}`;
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return valueText(value);
  }
}

function valueText(value: JsonValue): string {
  const text = typeof value === "string" ? value : encodeJson(value);
  return text.length > MAX_VALUE ? `${text.slice(0, MAX_VALUE)}… (${text.length} characters; --json has them all)` : text;
}
