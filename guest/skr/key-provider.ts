import { asArray, asObject, decodeUtf8, encodeJson, encodeUtf8, fromBase64, messageOf, parseJson, toBase64, toHex, type JsonObject } from "@sealpod/core";
import { combinedEvidence, decodeRuntimeData } from "./app.ts";
import { releaseBy, type ReleaseBackend } from "./backend.ts";
import { SkrError } from "./errors.ts";
import { fetchBoundReport, reportDataOf } from "./evidence.ts";
import { reflectionMethods, type ServiceShape } from "./grpc/reflection.ts";
import type { GrpcMethod } from "./grpc/server.ts";
import { encodeField, parseFields, textField } from "./grpc/wire.ts";
import { parseKeyInfo, parseKeyPacket, unwrapKeyPacket, wrapKey } from "./key-packet.ts";
import type { RequestGate } from "./request-gate.ts";

/** What the key provider needs. */
export interface KeyProviderOptions {
  readonly backends: readonly ReleaseBackend[];
  readonly gate: RequestGate;
  /** Text of a file: the public key that is wrapped to, and what is said of it. */
  readonly readText: (path: string) => Promise<string>;
}

const WRAP_INPUT = { name: "KeyProviderKeyWrapProtocolInput", field: "key_provider_key_wrap_protocol_input", type: "bytes" } as const;
const WRAP_OUTPUT = { name: "KeyProviderKeyWrapProtocolOutput", field: "key_provider_key_wrap_protocol_output", type: "bytes" } as const;

/** The service of lib/proto/proto/key_provider.proto (specs/attestation.md 5.6). */
export const KEY_PROVIDER_SERVICE: ServiceShape = {
  file: "key_provider.proto",
  package: "key_provider",
  name: "KeyProviderService",
  methods: [
    { name: "SayHello", input: { name: "HelloRequest", field: "name", type: "string" }, output: { name: "HelloReply", field: "message", type: "string" } },
    {
      name: "GetReport",
      input: { name: "KeyProviderGetReportInput", field: "report_data_hex_string", type: "string" },
      output: { name: "KeyProviderGetReportOutput", field: "report_hex_string", type: "string" },
    },
    {
      name: "GetAttestationData",
      input: { name: "KeyProviderGetAttestationDataInput", field: "b64_runtime_data_string", type: "string" },
      output: { name: "KeyProviderGetAttestationDataOutput", field: "attestation_data", type: "string" },
    },
    { name: "WrapKey", input: WRAP_INPUT, output: WRAP_OUTPUT },
    { name: "UnWrapKey", input: WRAP_INPUT, output: WRAP_OUTPUT },
  ],
};

/** The service under the sidecar's package, and under that of ocicrypt, whose clients speak the same messages. */
const SERVICE_NAMES = ["key_provider.KeyProviderService", "keyprovider.KeyProviderService"] as const;

/** The provider's name in the parameters of ocicrypt. */
const PROVIDER = "attestation-agent";

/** Longest text that is greeted or hashed. */
const MAX_TEXT = 64 * 1024;

/** Path of a key without its ending: no way to name a file by what no file name has. */
const KEY_PATH = /^[\w./ @+-]{1,512}$/;

/** The methods of the key provider by path, reflection included. */
export function keyProviderMethods(options: KeyProviderOptions): ReadonlyMap<string, GrpcMethod> {
  const { gate } = options;
  const answers: Readonly<Record<string, (field: Uint8Array, signal: AbortSignal) => Promise<Uint8Array>>> = {
    SayHello: async (name) => Promise.resolve(encodeUtf8(`Hello ${decodeUtf8(name)}`)),
    // The characters themselves are hashed, not the bytes that they stand for: that is what the genuine sidecar does.
    GetReport: async (data, signal) => gate(signal, async (call) => encodeUtf8(toHex((await fetchBoundReport(call, reportDataOf(data))).bytes))),
    GetAttestationData: async (data, signal) =>
      gate(signal, async (call) => encodeUtf8(encodeJson(await combinedEvidence(call, decodeRuntimeData(decodeUtf8(data), "b64_runtime_data_string"))))),
    WrapKey: async (input) => wrap(options, input),
    UnWrapKey: async (input, signal) => unwrap(options, input, signal),
  };
  const methods = new Map<string, GrpcMethod>(reflectionMethods(KEY_PROVIDER_SERVICE));
  for (const { name, input } of KEY_PROVIDER_SERVICE.methods) {
    const answer = answers[name];
    if (answer === undefined) continue;
    const method: GrpcMethod = {
      kind: "unary",
      answer: async (message, signal) => {
        const fields = parseFields(message);
        const field = input.type === "string" ? encodeUtf8(textField(fields, 1)) : (fields.get(1) ?? new Uint8Array());
        if (input.type === "string" && field.length > MAX_TEXT) throw invalid(`${input.field} has ${field.length} bytes, more than ${MAX_TEXT}`);
        const output = await answer(field, signal);
        try {
          return encodeField(1, output);
        } finally {
          // What UnWrapKey gives is a key.
          output.fill(0);
        }
      },
    };
    for (const service of SERVICE_NAMES) methods.set(`/${service}/${name}`, method);
  }
  return methods;
}

/**
 * Wraps a key to the public key of a key path: `{keypath}-info.json` names it. Also the genuine binary's one-shot mode.
 * @returns the annotation
 * @throws {SkrError} ERR_SKR_KEY_PACKET
 */
export async function wrapForKeyPath(readText: KeyProviderOptions["readText"], keyPath: string, plaintext: Uint8Array): Promise<string> {
  const file = `${keyPath}-info.json`;
  const info = parseKeyInfo(await readOrRefuse(readText, file), file);
  return wrapKey(plaintext, keyPath.slice(keyPath.lastIndexOf("/") + 1), info, await readOrRefuse(readText, info.publicKeyPath));
}

async function wrap({ readText }: KeyProviderOptions, bytes: Uint8Array): Promise<Uint8Array> {
  const params = asObject(parseInput(bytes, "keywrap")["keywrapparams"]);
  const [parameter] = parameters(asObject(params?.["ec"]));
  const keyPath = /^skr:(.+)$/s.exec(parameter ?? "")?.[1];
  if (keyPath === undefined || !KEY_PATH.test(keyPath)) throw invalid(`keywrapparams.ec.Parameters.${PROVIDER}[0] is not base64 of skr:KEYPATH`);
  const plaintext = decodeBase64(params?.["optsdata"], "keywrapparams.optsdata");
  try {
    return encodeUtf8(encodeJson({ keywrapresults: { annotation: await wrapForKeyPath(readText, keyPath, plaintext) }, keyunwrapresults: { optsdata: null } }));
  } finally {
    plaintext.fill(0);
  }
}

async function unwrap({ backends, gate }: KeyProviderOptions, bytes: Uint8Array, signal: AbortSignal): Promise<Uint8Array> {
  const params = asObject(parseInput(bytes, "keyunwrap")["keyunwrapparams"]);
  const brokers = parameters(asObject(params?.["dc"]));
  if (brokers.length > 0 && !brokers.some((broker) => /^skr(:|$)/.test(broker))) {
    throw invalid(`keyunwrapparams.dc.Parameters.${PROVIDER} names another key broker than skr`);
  }
  const annotation = params?.["annotation"];
  if (typeof annotation !== "string" || annotation === "") throw invalid("keyunwrapparams.annotation is missing");
  const packet = parseKeyPacket(annotation);
  const request = { attestationEndpoint: packet.attesterEndpoint, storeEndpoint: packet.kmsEndpoint, kid: packet.kid, accessToken: undefined };
  const jwk = await gate(signal, async (call) => releaseBy(backends, call, request));
  const plaintext = unwrapKeyPacket(jwk, packet);
  try {
    return encodeUtf8(encodeJson({ keywrapresults: { annotation: null }, keyunwrapresults: { optsdata: toBase64(plaintext) } }));
  } finally {
    plaintext.fill(0);
  }
}

function parseInput(bytes: Uint8Array, op: string): JsonObject {
  let input: JsonObject | undefined;
  try {
    input = asObject(parseJson(decodeUtf8(bytes, "input"), "input", { maxLength: MAX_TEXT, maxDepth: 16 }));
  } catch (cause) {
    throw invalid(messageOf(cause), cause);
  }
  if (input === undefined) throw invalid("the input is not a JSON object");
  if (input["op"] !== undefined && input["op"] !== op) throw invalid(`op is not ${JSON.stringify(op)}`);
  return input;
}

/** The parameters that a configuration of ocicrypt has for this provider, decoded. */
function parameters(config: JsonObject | undefined): readonly string[] {
  const list = asArray(asObject(config?.["Parameters"])?.[PROVIDER]) ?? [];
  return list.map((item) => {
    try {
      return decodeUtf8(decodeBase64(item, `Parameters.${PROVIDER}`));
    } catch (cause) {
      throw cause instanceof SkrError ? cause : invalid(`Parameters.${PROVIDER} is not base64 of text`, cause);
    }
  });
}

function decodeBase64(value: unknown, name: string): Uint8Array {
  if (typeof value !== "string" || value === "") throw invalid(`${name} is missing`);
  try {
    return fromBase64(value, name);
  } catch (cause) {
    throw invalid(messageOf(cause), cause);
  }
}

async function readOrRefuse(readText: KeyProviderOptions["readText"], path: string): Promise<string> {
  try {
    return await readText(path);
  } catch (cause) {
    throw new SkrError("ERR_SKR_KEY_PACKET", `${path} cannot be read: ${messageOf(cause)}`, { cause });
  }
}

function invalid(problem: string, cause?: unknown): SkrError {
  return new SkrError("ERR_SKR_REQUEST", `invalid request format: ${problem}`, { cause });
}
