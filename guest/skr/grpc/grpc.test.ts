import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { describe, expect, it } from "vitest";
import { concatBytes, encodeUtf8 } from "@sealpod/core";
import { keyProviderApi } from "@sealpod/proto";
import { SkrError } from "../errors.ts";
import { KEY_PROVIDER_SERVICE } from "../key-provider.ts";
import { encodeFile, reflectionMethods } from "./reflection.ts";
import { encodeStatusMessage, parseTimeout, statusOf } from "./status.ts";
import { encodeField, encodeNumberField, parseFields, textField } from "./wire.ts";

describe("messages", () => {
  it.each([0, 1, 127, 128, 16_383, 16_384, 200_000])("of %i bytes are as the library writes them", (length) => {
    const value = new Uint8Array(length).fill(7);
    const schema = keyProviderApi.KeyProviderKeyWrapProtocolInputSchema;
    // The library leaves out an empty field, which means the same.
    const theirs = toBinary(schema, create(schema, { keyProviderKeyWrapProtocolInput: value }));
    if (length > 0) expect(encodeField(1, value)).toEqual(theirs);
    expect(fromBinary(schema, encodeField(1, value)).keyProviderKeyWrapProtocolInput).toEqual(value);
    expect(parseFields(theirs).get(1) ?? new Uint8Array()).toEqual(value);
  });

  it("may have fields that nobody knows, of every type; the last of one number counts", () => {
    const bytes = concatBytes(
      encodeNumberField(9, 2 ** 31),
      encodeField(1, encodeUtf8("first")),
      Uint8Array.of((5 << 3) | 1, 1, 2, 3, 4, 5, 6, 7, 8),
      Uint8Array.of((6 << 3) | 5, 1, 2, 3, 4),
      encodeField(16, Uint8Array.of(1)),
      Uint8Array.of(8 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
      encodeField(1, encodeUtf8("last")),
    );
    const fields = parseFields(bytes);
    expect(textField(fields, 1)).toBe("last");
    expect(textField(fields, 2)).toBe("");
    expect(fields.get(16)).toEqual(Uint8Array.of(1));
  });

  it.each<[string, number[]]>([
    ["cut in a tag", [0x80]],
    ["cut in a length", [0x0a, 0x80]],
    ["cut in a field", [0x0a, 2, 1]],
    ["cut in 8 bytes", [0x09, 1, 2, 3]],
    ["with field number 0", [0x02, 0]],
    ["with a group", [0x0b, 0x0c]],
    ["with wire type 6", [0x0e]],
    ["with a number without end", [0x08, ...Array.from({ length: 11 }, () => 0x80)]],
    ["with a length beyond all", [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]],
    ["with a huge field number", [0xfa, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0]],
  ])("%s are refused", (_what, bytes) => {
    expect(() => parseFields(Uint8Array.from(bytes))).toThrow(expect.objectContaining({ code: "ERR_SKR_REQUEST" }));
  });

  it("are refused with text that is not UTF-8", () => {
    expect(() => textField(parseFields(Uint8Array.of(0x0a, 1, 0xff)), 1)).toThrow(expect.objectContaining({ code: "ERR_SKR_REQUEST" }));
  });
});

describe("the description of the service", () => {
  it("has the same messages, fields and methods as the generated code", () => {
    const ours = fromBinary(FileDescriptorProtoSchema, encodeFile(KEY_PROVIDER_SERVICE));
    const theirs = keyProviderApi.file_key_provider.proto;
    const plain = (file: typeof ours): unknown => ({
      name: file.name,
      package: file.package,
      syntax: file.syntax,
      messages: file.messageType.map(({ name, field }) => ({ name, field: field.map((item) => [item.name, item.number, item.label, item.type]) })),
      services: file.service.map(({ name, method }) => ({ name, method: method.map((item) => [item.name, item.inputType, item.outputType]) })),
    });
    expect(plain(ours)).toEqual(plain(theirs));
  });
});

describe("reflection", () => {
  const methods = reflectionMethods(KEY_PROVIDER_SERVICE);
  const ask = async (request: Uint8Array): Promise<ReadonlyMap<number, Uint8Array>> => {
    const answer = await methods.get("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")?.answer(request, new AbortController().signal);
    return parseFields(answer ?? new Uint8Array());
  };
  const field = (number: number, text: string): Uint8Array => encodeField(number, encodeUtf8(text));

  it("lists the one service, and repeats host and question", async () => {
    const request = concatBytes(field(1, "host"), field(7, ""));
    const answer = await ask(request);
    expect(textField(answer, 1)).toBe("host");
    expect(answer.get(2)).toEqual(request);
    expect(textField(parseFields(parseFields(answer.get(6) ?? new Uint8Array()).get(1) ?? new Uint8Array()), 1)).toBe("key_provider.KeyProviderService");
  });

  it.each([
    [4, "key_provider.KeyProviderService"],
    [4, "key_provider.KeyProviderService.UnWrapKey"],
    [4, "key_provider.HelloRequest"],
    [3, "key_provider.proto"],
  ])("gives the file for %i %s", async (number, name) => {
    const answer = await ask(field(number, name));
    expect(parseFields(answer.get(4) ?? new Uint8Array()).get(1)).toEqual(encodeFile(KEY_PROVIDER_SERVICE));
  });

  it.each([
    [4, "grpc.reflection.v1.ServerReflection"],
    [3, "other.proto"],
    [5, ""],
    [6, "key_provider.HelloRequest"],
  ])("says that there is nothing for %i %s", async (number, name) => {
    const error = (await ask(field(number, name))).get(7) ?? new Uint8Array();
    expect(error[1]).toBe(5);
    expect(textField(parseFields(error), 2)).toMatch(/^there (is|are) no/);
  });
});

describe("statuses", () => {
  it.each<[unknown, number]>([
    [new SkrError("ERR_SKR_REQUEST", ""), 3],
    [new SkrError("ERR_SKR_RELEASE", ""), 7],
    [new SkrError("ERR_SKR_BUSY", ""), 8],
    [new SkrError("ERR_SKR_TIMEOUT", ""), 4],
    [new SkrError("ERR_SKR_NETWORK", ""), 14],
    [new SkrError("ERR_SKR_UNIMPLEMENTED", ""), 12],
    [new RangeError("inner"), 13],
  ])("of %s is %i", (error, status) => {
    expect(statusOf(error)).toBe(status);
  });

  it("carry their message in ASCII", () => {
    expect(encodeStatusMessage("why: 100% “no”\r\n")).toBe("why: 100%25 %E2%80%9Cno%E2%80%9D%0D%0A");
    expect(encodeStatusMessage("\u{d800}")).toBe("%EF%BF%BD");
  });

  it.each<[string | undefined, number | undefined]>([
    ["5S", 5000],
    ["1H", 3_600_000],
    ["2M", 120_000],
    ["250m", 250],
    ["1000u", 1],
    ["1000000n", 1],
    ["123456789S", undefined],
    ["5s", undefined],
    ["-1S", undefined],
    ["", undefined],
    [undefined, undefined],
  ])("grpc-timeout %j is %j ms", (text, expected) => {
    const found = parseTimeout(text);
    if (expected === undefined) expect(found).toBeUndefined();
    else expect(found).toBeCloseTo(expected, 6);
  });
});
