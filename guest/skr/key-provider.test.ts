import { createPrivateKey, createPublicKey, generateKeyPairSync, privateDecrypt, constants } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { asObject, decodeUtf8, encodeUtf8, fromBase64, fromHex, parseJson, sha256, toBase64, type JsonObject } from "@sealpod/core";
import { encodeField, parseFields } from "./grpc/wire.ts";
import { parseKeyInfo, parseKeyPacket, unwrapKeyPacket, wrapKey } from "./key-packet.ts";
import { keyProviderMethods, wrapForKeyPath } from "./key-provider.ts";
import { azureBackend } from "./key-release.ts";
import { requestGate } from "./request-gate.ts";
import { json, MAA, VAULT, World } from "./testdata/world.ts";

const VECTORS = "../shared/vectors/attestation/sidecar/keywrap";
const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 3072 });
const PEM = publicKey.export({ format: "pem", type: "spki" }).toString();
const INFO = { publicKeyPath: "/keys/image.pem", kmsEndpoint: VAULT, attesterEndpoint: MAA };
const OPTIONS = encodeUtf8('{"symkeyopts":{"symkey":"c2VjcmV0"}}');

describe("wrapped keys of images", () => {
  it("are RSA-OAEP with SHA-256, in base64 of JSON", () => {
    const annotation = wrapKey(OPTIONS, "image", INFO, PEM);
    const packet = asObject(parseJson(decodeUtf8(fromBase64(annotation)))) ?? {};
    expect(packet).toMatchObject({ kid: "image", wrap_type: "rsa_3072", kms_endpoint: VAULT, attester_endpoint: MAA });
    const wrapped = fromBase64(packet["wrapped_data"] as string);
    expect(wrapped).toHaveLength(384);
    expect(new Uint8Array(privateDecrypt({ key: privateKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" }, wrapped))).toEqual(OPTIONS);
    const jwk = { ...privateKey.export({ format: "jwk" }) } as JsonObject;
    expect(new Uint8Array(unwrapKeyPacket(jwk, parseKeyPacket(annotation)))).toEqual(OPTIONS);
  });

  it.each<[string, () => unknown, RegExp]>([
    ["too long for the key", () => wrapKey(new Uint8Array(319), "k", INFO, PEM), /319 bytes cannot be wrapped with a key of 3072 bits: at most 318/],
    ["for no key", () => wrapKey(OPTIONS, "k", INFO, "-----BEGIN PUBLIC KEY-----"), /\/keys\/image\.pem is not a public key in PEM/],
    [
      "for an EC key",
      () => wrapKey(OPTIONS, "k", INFO, generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey.export({ format: "pem", type: "spki" }).toString()),
      /not an RSA key/,
    ],
    [
      "for a short key",
      () => wrapKey(OPTIONS, "k", INFO, generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey.export({ format: "pem", type: "spki" }).toString()),
      /2048 to 16384 bits/,
    ],
  ])("are not made %s", (_what, make, message) => {
    expect(make).toThrow(expect.objectContaining({ code: "ERR_SKR_KEY_PACKET", message: expect.stringMatching(message) }));
  });

  const packet = (changes: JsonObject): string => {
    const good: JsonObject = { kid: "k", wrapped_data: "AAAA", wrap_type: "rsa_2048", kms_endpoint: VAULT, attester_endpoint: MAA };
    return toBase64(encodeUtf8(JSON.stringify({ ...good, ...changes })));
  };

  it.each<[string, string]>([
    ["no base64", "%"],
    ["no JSON", toBase64(encodeUtf8("x"))],
    ["no object", toBase64(encodeUtf8("[]"))],
    ["another wrapping", packet({ wrap_type: "A256GCM" })],
    ["no key", packet({ kid: "" })],
    ["a number for a key", packet({ kid: 1 })],
    ["no data", packet({ wrapped_data: null })],
    ["no store", packet({ kms_endpoint: null })],
    ["no attester", packet({ attester_endpoint: null })],
    ["too much", packet({ more: "x".repeat(20_000) })],
  ])("with %s are refused", (_what, annotation) => {
    expect(() => parseKeyPacket(annotation)).toThrow(
      expect.objectContaining({ code: "ERR_SKR_REQUEST", message: expect.stringMatching(/^invalid request format/) }),
    );
  });

  it("are opened by the RSA key that they are wrapped to, alone", () => {
    const good = parseKeyPacket(wrapKey(OPTIONS, "image", INFO, PEM));
    const other = { ...generateKeyPairSync("rsa", { modulusLength: 3072 }).privateKey.export({ format: "jwk" }) } as JsonObject;
    for (const jwk of [other, { kty: "oct", k: "AAAA" }, { kty: "RSA", n: "AQAB", e: "AQAB" }]) {
      expect(() => unwrapKeyPacket(jwk, good)).toThrow(
        expect.objectContaining({ code: "ERR_SKR_KEY_PACKET", message: expect.stringContaining(`key image of ${VAULT}`) }),
      );
    }
  });

  it.each(["", "[]", "{}", '{"public_key_path":"/k","kms_endpoint":"x"}'])("need to know about their public key more than %j", (text) => {
    expect(() => parseKeyInfo(text, "/k-info.json")).toThrow(
      expect.objectContaining({ code: "ERR_SKR_KEY_PACKET", message: expect.stringContaining("/k-info.json") }),
    );
  });

  it.skipIf(!existsSync(VECTORS))("of the AKS example parse (skipped without ../shared/vectors/attestation)", () => {
    const parsed = parseKeyPacket(readFileSync(`${VECTORS}/aks-wrapped-annotation.txt`, "utf8"));
    expect(parsed).toMatchObject({ kid: "testkey000", kmsEndpoint: "accmhsm.managedhsm.azure.net", attesterEndpoint: "sharedeus2.eus2.attest.azure.net" });
    expect(parsed.wrappedData).toHaveLength(384);
  });
});

describe("the key provider", () => {
  let made: World;
  let world: World;
  beforeAll(async () => {
    made = await World.make();
  });
  beforeEach(() => {
    world = new World(made.chain, made.root, made.store);
  });

  const FILES: Readonly<Record<string, string>> = {
    "/keys/image-info.json": JSON.stringify({ public_key_path: "/keys/image.pem", kms_endpoint: VAULT, attester_endpoint: MAA }),
    "/keys/image.pem": PEM,
  };
  const readText = async (path: string): Promise<string> => {
    const text = FILES[path];
    return text === undefined ? Promise.reject(new Error(`ENOENT ${path}`)) : Promise.resolve(text);
  };
  const ask = async (name: string, field: Uint8Array | string, service = "key_provider"): Promise<string> => {
    const ports = world.ports();
    const methods = keyProviderMethods({ backends: [azureBackend(ports)], gate: requestGate(ports), readText });
    const message = encodeField(1, typeof field === "string" ? encodeUtf8(field) : field);
    const answer = await methods.get(`/${service}.KeyProviderService/${name}`)?.answer(message, new AbortController().signal);
    return decodeUtf8(parseFields(answer ?? new Uint8Array()).get(1) ?? new Uint8Array());
  };
  const b64 = (text: string): string => toBase64(encodeUtf8(text));
  const wrapInput = (parameter: string, more: JsonObject = {}): string =>
    JSON.stringify({ op: "keywrap", keywrapparams: { ec: { Parameters: { "attestation-agent": [b64(parameter)] } }, optsdata: toBase64(OPTIONS) }, ...more });
  const unwrapInput = (annotation: unknown, parameters: JsonObject = { "attestation-agent": [b64("skr")] }): string =>
    JSON.stringify({ op: "keyunwrap", keywrapparams: {}, keyunwrapparams: { dc: { Parameters: parameters }, annotation } });

  it("says hello", async () => {
    expect(await ask("SayHello", "World")).toBe("Hello World");
    expect(await ask("SayHello", "")).toBe("Hello ");
  });

  it("gives a report over the characters, not over what their digits mean", async () => {
    const bytes = fromHex(await ask("GetReport", "00ff"));
    expect(bytes).toHaveLength(1184);
    expect(bytes.subarray(0x50, 0x70)).toEqual(sha256(encodeUtf8("00ff")));
  });

  it("gives evidence as JSON", async () => {
    const data = asObject(parseJson(await ask("GetAttestationData", b64("data")))) ?? {};
    expect(Object.keys(data)).toEqual(["evidence", "endorsements", "uvm_endorsements", "endorsed_tcb"]);
    expect(fromBase64(data["evidence"] as string).subarray(0x50, 0x70)).toEqual(sha256(encodeUtf8("data")));
    await expect(ask("GetAttestationData", "%")).rejects.toMatchObject({ code: "ERR_SKR_REQUEST" });
  });

  it.each(["key_provider", "keyprovider"])("wraps and unwraps, in package %s too", async (service) => {
    const wrapped = asObject(parseJson(await ask("WrapKey", wrapInput("skr:/keys/image"), service))) ?? {};
    expect(wrapped["keyunwrapresults"]).toEqual({ optsdata: null });
    const annotation = asObject(wrapped["keywrapresults"])?.["annotation"] as string;
    expect(parseKeyPacket(annotation)).toMatchObject({ kid: "image", kmsEndpoint: VAULT, attesterEndpoint: MAA });
    expect(world.requests).toEqual([]);
    world.release = { kty: "RSA-HSM", plaintext: new Uint8Array(privateKey.export({ format: "der", type: "pkcs8" })) };
    expect(JSON.parse(await ask("UnWrapKey", unwrapInput(annotation), service))).toEqual({
      keywrapresults: { annotation: null },
      keyunwrapresults: { optsdata: toBase64(OPTIONS) },
    });
    expect(world.requests.at(-1)?.url).toBe(`https://${VAULT}/keys/image/release?api-version=7.4`);
  });

  it("unwraps without being named, and not when another key broker is", async () => {
    const annotation = wrapKey(OPTIONS, "image", INFO, PEM);
    world.release = { kty: "RSA-HSM", plaintext: new Uint8Array(privateKey.export({ format: "der", type: "pkcs8" })) };
    expect(await ask("UnWrapKey", unwrapInput(annotation, {}))).toContain(toBase64(OPTIONS));
    const requests = world.requests.length;
    await expect(ask("UnWrapKey", unwrapInput(annotation, { "attestation-agent": [b64("cc_kbc::https://kbs")] }))).rejects.toMatchObject({
      code: "ERR_SKR_REQUEST",
    });
    expect(world.requests).toHaveLength(requests);
  });

  it("passes on why a key was not released", async () => {
    world.scripted.push(json(400, { error: { message: "the evidence does not verify" } }));
    await expect(ask("UnWrapKey", unwrapInput(wrapKey(OPTIONS, "image", INFO, PEM)))).rejects.toMatchObject({
      code: "ERR_SKR_ATTESTATION",
      message: expect.stringContaining("the evidence does not verify"),
    });
  });

  it.each<[string, string]>([
    ["WrapKey", ""],
    ["WrapKey", "[]"],
    ["WrapKey", "{}"],
    ["WrapKey", JSON.stringify({ op: "keyunwrap" })],
    ["WrapKey", wrapInput("aa:/keys/image")],
    ["WrapKey", wrapInput("skr:")],
    ["WrapKey", wrapInput("skr:/keys/image\0")],
    ["WrapKey", wrapInput("skr:/keys/image", { keywrapparams: { ec: { Parameters: { "attestation-agent": [b64("skr:/keys/image")] } } } })],
    ["WrapKey", JSON.stringify({ keywrapparams: { ec: { Parameters: { "attestation-agent": ["%"] } } } })],
    ["UnWrapKey", "{}"],
    ["UnWrapKey", unwrapInput(undefined)],
    ["UnWrapKey", unwrapInput(1)],
    ["UnWrapKey", unwrapInput("%")],
    ["UnWrapKey", JSON.stringify({ op: "keywrap", keyunwrapparams: { annotation: "e30=" } })],
    ["UnWrapKey", unwrapInput(wrapKey(OPTIONS, "a b", INFO, PEM))],
    ["UnWrapKey", unwrapInput(wrapKey(OPTIONS, "k", { ...INFO, kmsEndpoint: "x/../y" }, PEM))],
    ["SayHello", "x".repeat(64 * 1024 + 1)],
  ])("%s refuses a request (%#)", async (name, input) => {
    await expect(ask(name, input)).rejects.toMatchObject({ code: "ERR_SKR_REQUEST", message: expect.stringMatching(/^invalid request format/) });
    expect(world.requests).toEqual([]);
  });

  it("says which file about a public key is missing", async () => {
    await expect(ask("WrapKey", wrapInput("skr:/keys/other"))).rejects.toMatchObject({
      code: "ERR_SKR_KEY_PACKET",
      message: expect.stringContaining("/keys/other-info.json cannot be read: ENOENT"),
    });
  });

  it("wraps files too (-infile -keypath -outfile)", async () => {
    const annotation = await wrapForKeyPath(readText, "/keys/image", OPTIONS);
    const { n, e, d, p, q, dp, dq, qi } = privateKey.export({ format: "jwk" });
    const key = createPrivateKey({ key: { kty: "RSA", n, e, d, p, q, dp, dq, qi } as never, format: "jwk" });
    expect(createPublicKey(key).equals(publicKey)).toBe(true);
    expect(new Uint8Array(privateDecrypt({ key, oaepHash: "sha256" }, parseKeyPacket(annotation).wrappedData))).toEqual(OPTIONS);
  });
});
