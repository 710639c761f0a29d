import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { decodeBase64, decodeHex } from "./text-encoding.ts";
import { JsonSyntaxError, marshal, parseJsonValue, RegoObject } from "../values/index.ts";
import type { Value } from "../values/index.ts";
import type { Builtin } from "./builtin.ts";
import { builtinError, define, object, string, weigh } from "./builtin.ts";
import { indented } from "./json-format.ts";

function bytesOf(text: string): Buffer {
  return Buffer.from(text, "utf8");
}

/** Bytes as text: what is no UTF-8 becomes U+FFFD, as in Go's conversion for JSON. */
function textOf(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

function base64(text: string, alphabet: "standard" | "url", padding: "required" | "optional"): string {
  const bytes = decodeBase64(text, alphabet, padding);
  if (typeof bytes === "number") throw builtinError(`illegal base64 data at input byte ${bytes}`);
  return textOf(bytes);
}

function digest(algorithm: "md5" | "sha1" | "sha256"): (args: readonly Value[]) => Value {
  return (args) =>
    createHash(algorithm)
      .update(bytesOf(string(args, 0)))
      .digest("hex");
}

function hmac(algorithm: "md5" | "sha1" | "sha256" | "sha512"): (args: readonly Value[]) => Value {
  return (args) =>
    createHmac(algorithm, bytesOf(string(args, 1)))
      .update(bytesOf(string(args, 0)))
      .digest("hex");
}

/** Base64, hex, JSON, URL query strings and digests. */
export const encodingBuiltins: readonly Builtin[] = [
  define("base64.encode", 1, (args) => bytesOf(string(args, 0)).toString("base64")),
  define("base64.decode", 1, (args) => base64(string(args, 0), "standard", "required")),
  define("base64.is_valid", 1, (args) => typeof decodeBase64(string(args, 0), "standard", "required") !== "number"),
  define("base64url.encode", 1, (args) => bytesOf(string(args, 0)).toString("base64").replaceAll("+", "-").replaceAll("/", "_")),
  define("base64url.encode_no_pad", 1, (args) => bytesOf(string(args, 0)).toString("base64url")),
  define("base64url.decode", 1, (args) => base64(string(args, 0), "url", "optional")),
  define("hex.encode", 1, (args) => bytesOf(string(args, 0)).toString("hex")),
  define("hex.decode", 1, (args) => {
    const text = string(args, 0);
    const bytes = decodeHex(text);
    if (typeof bytes === "string") throw builtinError(bytes);
    return textOf(bytes);
  }),
  define("json.marshal", 1, ([value], context) => {
    weigh(value!, context);
    const text = marshal(value!);
    context.allocate(text.length);
    context.work(text.length >> 6);
    return text;
  }),
  define("json.marshal_with_options", 2, ([value, options], context) => {
    weigh(value!, context);
    const text = indented(value!, object([value!, options!], 1));
    context.allocate(text.length);
    return text;
  }),
  define("json.unmarshal", 1, (args, context) => {
    const text = string(args, 0);
    context.allocate(text.length * 2);
    context.work(text.length >> 4);
    try {
      return parseJsonValue(text, context.maxNesting);
    } catch (error) {
      if (error instanceof JsonSyntaxError) throw builtinError(error.message);
      throw error;
    }
  }),
  define("json.is_valid", 1, ([text], context) => {
    if (typeof text !== "string") return false;
    context.work(text.length >> 4);
    try {
      parseJsonValue(text, context.maxNesting);
      return true;
    } catch (error) {
      if (error instanceof JsonSyntaxError) return false;
      throw error;
    }
  }),
  define("urlquery.encode", 1, (args) => encodeQuery(string(args, 0))),
  define("urlquery.decode", 1, (args) => decodeQuery(string(args, 0))),
  define("urlquery.encode_object", 1, (args) => {
    const pairs: string[] = [];
    for (const [key, value] of object(args, 0).entries()) {
      if (typeof key !== "string") throw builtinError("object keys must be strings");
      const values = typeof value === "string" ? [value] : listOf(value);
      for (const item of values) pairs.push(`${encodeQuery(key)}=${encodeQuery(item)}`);
    }
    return pairs.join("&");
  }),
  define("urlquery.decode_object", 1, (args) => {
    const members = new Map<string, Value[]>();
    const text = string(args, 0);
    for (const pair of text === "" ? [] : text.split("&")) {
      if (pair === "") continue;
      if (pair.includes(";")) throw builtinError("invalid semicolon separator in query");
      const mark = pair.indexOf("=");
      const name = decodeQuery(mark === -1 ? pair : pair.slice(0, mark));
      const value = mark === -1 ? "" : decodeQuery(pair.slice(mark + 1));
      const list = members.get(name);
      if (list === undefined) members.set(name, [value]);
      else list.push(value);
    }
    return RegoObject.of(members);
  }),
  define("crypto.md5", 1, digest("md5")),
  define("crypto.sha1", 1, digest("sha1")),
  define("crypto.sha256", 1, digest("sha256")),
  define("crypto.hmac.md5", 2, hmac("md5")),
  define("crypto.hmac.sha1", 2, hmac("sha1")),
  define("crypto.hmac.sha256", 2, hmac("sha256")),
  define("crypto.hmac.sha512", 2, hmac("sha512")),
  define("crypto.hmac.equal", 2, (args) => {
    const a = bytesOf(string(args, 0));
    const b = bytesOf(string(args, 1));
    return a.length === b.length && timingSafeEqual(a, b);
  }),
];

function listOf(value: Value): readonly string[] {
  const items = Array.isArray(value)
    ? (value as readonly Value[])
    : typeof value === "object" && value !== null && "items" in value
      ? value.items()
      : undefined;
  if (items === undefined) throw builtinError("object values must be strings or collections of strings");
  return items.map((item) => {
    if (typeof item !== "string") throw builtinError("object values must be strings or collections of strings");
    return item;
  });
}

const PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~";

/** Go's `url.QueryEscape`. */
function encodeQuery(text: string): string {
  let encoded = "";
  for (const byte of bytesOf(text)) {
    const char = String.fromCharCode(byte);
    if (byte < 0x80 && PLAIN.includes(char)) encoded += char;
    else if (byte === 0x20) encoded += "+";
    else encoded += `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return encoded;
}

function decodeQuery(text: string): string {
  const bytes: number[] = [];
  const input = bytesOf(text);
  for (let at = 0; at < input.length; at++) {
    const byte = input[at]!;
    if (byte === 0x2b) bytes.push(0x20);
    else if (byte === 0x25) {
      const pair = input.subarray(at + 1, at + 3).toString("latin1");
      const value = decodeHex(pair);
      if (typeof value === "string" || value.length !== 1) throw builtinError(`invalid URL escape ${JSON.stringify(`%${pair}`)}`);
      bytes.push(value[0]!);
      at += 2;
    } else bytes.push(byte);
  }
  return textOf(Uint8Array.from(bytes));
}
