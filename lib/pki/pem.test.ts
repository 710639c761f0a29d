import { describe, expect, it } from "vitest";
import { encodePem, MAX_PEM_BLOCKS, MAX_PEM_LENGTH, parsePem } from "./index.ts";

const BODY = Uint8Array.from({ length: 100 }, (_, index) => index);
const BLOCK = encodePem("CERTIFICATE", BODY);

describe("RFC 7468", () => {
  it("reads what it writes, in order, with white space and CRLF between", () => {
    expect(BLOCK.split("\n")[1]).toHaveLength(64);
    expect(parsePem(`\n${BLOCK}\r\n \t${BLOCK.replaceAll("\n", "\r\n")}\n`, "CERTIFICATE", "test")).toEqual([BODY, BODY]);
  });

  it("reads lines of any length, as caches write them", () => {
    expect(parsePem(`-----BEGIN CERTIFICATE-----\n${Buffer.from(BODY).toString("base64")}\n-----END CERTIFICATE-----`, "CERTIFICATE", "test")).toEqual([BODY]);
  });

  it.each<[string, string]>([
    ["nothing", ""],
    ["no block", "hello"],
    ["text before", `hello ${BLOCK}`],
    ["text between", `${BLOCK}hello\n${BLOCK}`],
    ["text after", `${BLOCK}hello`],
    ["a NUL after", `${BLOCK}\0`],
    ["another label", BLOCK.replaceAll("CERTIFICATE", "PRIVATE KEY")],
    ["labels that differ", BLOCK.replace("END CERTIFICATE", "END CERT")],
    ["no end", BLOCK.slice(0, 60)],
    ["characters outside base64", BLOCK.replace("A", "*")],
    ["padding inside", BLOCK.replace("AAEC", "AA==")],
    ["a header line", BLOCK.replace("-----\n", "-----\nProc-Type: 4\n")],
  ])("refuses %s", (_name, text) => {
    expect(() => parsePem(text, "CERTIFICATE", "test")).toThrow(expect.objectContaining({ code: "ERR_PKI_PEM" }));
  });

  it("refuses more text or blocks than the limits", () => {
    expect(() => parsePem(" ".repeat(MAX_PEM_LENGTH + 1), "CERTIFICATE", "test")).toThrow(expect.objectContaining({ code: "ERR_PKI_LIMIT" }));
    expect(() => parsePem(BLOCK.repeat(MAX_PEM_BLOCKS + 1), "CERTIFICATE", "test")).toThrow(expect.objectContaining({ code: "ERR_PKI_LIMIT" }));
  });
});
