import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openOperatorToken } from "./operator-token.ts";

const TOKEN = "t".repeat(32);
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-operator-"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function file(name: string, text: string, mode = 0o600): string {
  writeFileSync(join(directory, name), text, { mode });
  return join(directory, name);
}

describe("the operator's token", () => {
  it("is what stands in its file, and nothing else is", async () => {
    const isOperator = await openOperatorToken(file("token", ` ${TOKEN}\n`));
    expect(isOperator(TOKEN)).toBe(true);
    for (const other of ["", `${TOKEN}t`, TOKEN.slice(1), `${TOKEN}\n`, TOKEN.toUpperCase()]) expect(isOperator(other), other).toBe(false);
  });

  it.each<[string, () => string, RegExp]>([
    ["that is not there", () => join(directory, "none"), /^the bearer token cannot be read: ENOENT/],
    ["that its group can read", () => file("group", TOKEN, 0o640), /has mode 0640: others have access/],
    ["that all can read", () => file("open", TOKEN, 0o604), /has mode 0604: others have access/],
    ["with a token that is too short", () => file("short", TOKEN.slice(1)), /holds no bearer token: expected 32 or more/],
    ["with two tokens", () => file("two", `${TOKEN} ${TOKEN}`), /holds no bearer token/],
    ["larger than a token", () => file("large", "t".repeat(4097)), /holds no bearer token/],
  ])("is not taken of a file %s", async (_what, path, message) => {
    await expect(openOperatorToken(path())).rejects.toMatchObject({ code: "ERR_SERVICE_CONFIG", message: expect.stringMatching(message) as string });
  });
});
