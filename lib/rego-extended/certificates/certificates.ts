import { createPublicKey } from "node:crypto";
import { CoreError, equalBytes, type JsonValue } from "@sealpod/core";
import { encodePublicKeyInfo, OID, PkiError } from "@sealpod/pki";
import type { Builtin, BuiltinContext, RegoObject, Value } from "@sealpod/rego";
import { BuiltinError, builtinError, collection, define, formatValue, fromJson, object, string } from "@sealpod/rego";
import { type ChainRequest, verifyBundle } from "./certificate-chain.ts";
import { certificatePublicKey, readCertificate, readRequest, splitCertificates } from "./certificate-fields.ts";
import { ANY_PURPOSE, certificateJson, KEY_PURPOSES, requestJson } from "./certificate-json.ts";
import { base64Bytes, decodePem, isPem, type PemBlock } from "../encodings.ts";
import { isPrivateKey, privateKeyJson, readPrivateKey, rsaJwk } from "./private-keys.ts";

/** Parsing a certificate and showing it takes about 0.2 ms. */
const PARSE_WORK = 1000;

/** X.509 certificates, requests and keys, in the shapes of Go's structures. */
export const certificatesBuiltins: readonly Builtin[] = [
  define("crypto.x509.parse_certificates", 1, (args, context) => {
    return parsed("x509: malformed certificate", () => certificateValues(certificateBytes(string(args, 0), context), context));
  }),
  define("crypto.x509.parse_and_verify_certificates", 1, (args, context) => {
    // OPA allows any purpose here, and with options asks for that of a server.
    return verified(string(args, 0), { host: undefined, time: undefined, purposes: undefined }, context);
  }),
  define("crypto.x509.parse_and_verify_certificates_with_options", 2, (args, context) => {
    return verified(string(args, 0), chainOptions(object(args, 1)), context);
  }),
  define("crypto.x509.parse_certificate_request", 1, (args, context) => {
    const text = string(args, 0);
    const block = decodePem(pemOrBase64(text, context));
    if (block !== undefined && block.label !== "CERTIFICATE REQUEST") throw builtinError("invalid PEM-encoded certificate signing request");
    context.work(PARSE_WORK);
    return parsed("asn1: structure error", () => value(requestJson(readRequest(block?.der ?? base64Bytes(text))), context));
  }),
  define("crypto.x509.parse_rsa_private_key", 1, (args, context) => {
    const block = decodePem(pemOrBase64(string(args, 0), context));
    if (block === undefined) throw builtinError("failed to parse RSA private key");
    return value(rsaJwk(readPrivateKey(block, context)), context);
  }),
  define("crypto.x509.parse_keypair", 2, (args, context) => {
    const ders = blocks(pemOrBase64(string(args, 0), context)).flatMap((block) => (block.label === "CERTIFICATE" ? [block.der] : []));
    const block = blocks(pemOrBase64(string(args, 1), context)).find(isPrivateKey);
    if (ders[0] === undefined) throw builtinError("tls: failed to find any PEM data in certificate input");
    if (block === undefined) throw builtinError("tls: failed to find any PEM data in key input");
    return parsed("x509: malformed certificate", () => keyPair(ders as [Uint8Array, ...Uint8Array[]], block, context));
  }),
  define("crypto.parse_private_keys", 1, (args, context) => {
    const text = string(args, 0);
    if (text === "") return null;
    let keys: readonly JsonValue[];
    try {
      keys = blocks(lenientText(text, context))
        .filter(isPrivateKey)
        .map((block) => privateKeyJson(readPrivateKey(block, context)));
    } catch (error) {
      // OPA: null for a text that has a key which cannot be read.
      if (error instanceof BuiltinError) return null;
      throw error;
    }
    return value(keys, context);
  }),
];

/** `[true, chain]`, leaf first, or `[false, []]` for whatever is not a chain that verifies. */
function verified(text: string, options: ChainOptions, context: BuiltinContext): Value {
  const time = options.time ?? context.now();
  if (time === undefined) throw builtinError("no CurrentTime, and the query has no clock");
  try {
    const ders = certificateBytes(text, context);
    const chain = verifyBundle(ders, { ...options, time }, context).map((index) => ders[index]!);
    return [true, certificateValues(chain, context)];
  } catch (error) {
    if (error instanceof PkiError || error instanceof BuiltinError) return [false, []];
    throw error;
  }
}

/** A request whose time may be the query's. */
type ChainOptions = Omit<ChainRequest, "time"> & { readonly time: number | undefined };

/** Options of OPA: `DNSName`, `CurrentTime` in nanoseconds, `KeyUsages`, `MaxConstraintComparisons`. */
function chainOptions(options: RegoObject): ChainOptions {
  for (const name of options.keys()) {
    if (typeof name !== "string" || !["DNSName", "CurrentTime", "MaxConstraintComparisons", "KeyUsages"].includes(name))
      throw builtinError("invalid key option");
  }
  const host = options.get("DNSName");
  if (host !== undefined && typeof host !== "string") throw builtinError("'DNSName' should be a string");
  const time = options.get("CurrentTime");
  if (time !== undefined && typeof time !== "number" && typeof time !== "bigint") throw builtinError("'CurrentTime' should be a number");
  if (time !== undefined && (typeof time === "number" ? !Number.isInteger(time) : BigInt.asIntN(64, time) !== time)) {
    throw builtinError("'CurrentTime' should be a valid int64 number");
  }
  const comparisons = options.get("MaxConstraintComparisons");
  // Name constraints are refused, so there is nothing to compare; the type is checked all the same.
  if (comparisons !== undefined && typeof comparisons !== "number") throw builtinError("'MaxConstraintComparisons' should be a number");
  return {
    host: host === undefined || host === "" ? undefined : host,
    time: time === undefined ? undefined : Number(BigInt(time) / 1_000_000n),
    purposes: purposes(options.get("KeyUsages")),
  };
}

function purposes(usages: Value | undefined): readonly string[] | undefined {
  const names = usages === undefined ? [] : collection([usages], 0, "an object whose 'KeyUsages' is one of {array, set}");
  const found = names.map((name) => KEY_PURPOSES.find((purpose) => purpose.name === name)?.oid);
  const invalid = names.filter((_, index) => found[index] === undefined);
  if (invalid.length > 0)
    throw builtinError(
      `invalid entries for 'KeyUsages' found: [${invalid
        .slice(0, 8)
        .map((name) => formatValue(name, 64))
        .join(" ")}]`,
    );
  if (found.includes(ANY_PURPOSE)) return undefined;
  return found.length === 0 ? [OID.serverAuth] : found.flatMap((oid) => oid ?? []);
}

function keyPair(ders: readonly [Uint8Array, ...Uint8Array[]], block: PemBlock, context: BuiltinContext): Value {
  context.work(PARSE_WORK);
  const key = readPrivateKey(block, context);
  const leaf = ders[0];
  if (!equalBytes(encodePublicKeyInfo(createPublicKey(key)), certificatePublicKey(leaf))) throw builtinError("tls: private key does not match public key");
  const { URIStrings: _, ...fields } = certificateJson(readCertificate(leaf)) as Readonly<Record<string, JsonValue>>;
  const json = {
    Certificate: ders.map((der) => Buffer.from(der).toString("base64")),
    PrivateKey: privateKeyJson(key),
    SupportedSignatureAlgorithms: null,
    OCSPStaple: null,
    SignedCertificateTimestamps: null,
    Leaf: fields,
  };
  return value(json, context);
}

function certificateValues(ders: readonly Uint8Array[], context: BuiltinContext): Value {
  return ders.map((der) => {
    context.work(PARSE_WORK + (der.length >> 4));
    context.allocate(8 * der.length);
    return value(certificateJson(readCertificate(der)), context);
  });
}

/** Certificates in DER from PEM, base64 of PEM, or base64 of DER. */
function certificateBytes(text: string, context: BuiltinContext): readonly Uint8Array[] {
  const pem = pemOrBase64(text, context);
  if (!isPem(pem)) return splitCertificates(base64Bytes(text));
  return blocks(pem, true).map(({ label, der }) => {
    if (label !== "CERTIFICATE") throw builtinError(`PEM block type is '${label}', expected CERTIFICATE`);
    return der;
  });
}

/**
 * The text of PEM, or of base64 that holds PEM; else the text of the bytes, which is not PEM.
 * @throws {BuiltinError} for a text that is neither PEM nor base64
 */
function pemOrBase64(text: string, context: BuiltinContext): string {
  context.work(text.length >> 4);
  context.allocate(2 * text.length);
  return isPem(text) ? text : Buffer.from(base64Bytes(text)).toString("latin1");
}

function lenientText(text: string, context: BuiltinContext): string {
  try {
    return pemOrBase64(text, context);
  } catch (error) {
    if (error instanceof BuiltinError) return text;
    throw error;
  }
}

/** The PEM blocks of a text. `complete` demands that nothing else stands there. */
function blocks(text: string, complete = false): readonly PemBlock[] {
  const list: PemBlock[] = [];
  let rest = text;
  for (;;) {
    const block = decodePem(rest);
    if (block === undefined) {
      if (complete && rest !== "") throw builtinError("failed to parse a PEM block");
      return list;
    }
    list.push(block);
    rest = block.rest;
  }
}

function value(json: JsonValue, context: BuiltinContext): Value {
  return fromJson(json, context.maxNesting);
}

function parsed<T>(what: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (error instanceof PkiError || error instanceof CoreError) throw builtinError(`${what}: ${error.message}`);
    throw error;
  }
}
