import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { Logger } from "@sealpod/core";
import { basicConstraints, encodePem, generateKey, issueCertificate, OID, subjectAltName } from "@sealpod/pki";
import { openSigner, type SignerFiles } from "./server-signer.ts";

const NOW = Date.UTC(2026, 10, 22);

interface Pair {
  readonly cert: string;
  readonly key: string;
  readonly der: Uint8Array;
}

async function pair(serial: bigint): Promise<Pair> {
  const key = await generateKey("rsa-2048");
  const { der } = issueCertificate({
    subject: [{ type: OID.commonName, value: "demo.vault.test" }],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "rsa-sha256",
    serial,
    notBefore: NOW - 1000,
    notAfter: NOW + 86_400_000,
    extensions: [basicConstraints({ ca: false }), subjectAltName({ kind: "dns", value: "demo.vault.test" })],
  });
  return { cert: encodePem("CERTIFICATE", der), key: key.export({ type: "pkcs8", format: "pem" }) as string, der };
}

let directory: string;
let first: Pair;
let second: Pair;
let files: SignerFiles;
let lines: string[];
const logger: Logger = { log: (level, message, fields) => void lines.push(`${level} ${message} ${JSON.stringify(fields)}`) };
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-vault-signer-"));
  files = { cert: join(directory, "r.crt"), key: join(directory, "r.key") };
  [first, second] = await Promise.all([pair(1n), pair(2n)]);
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));
beforeEach(() => {
  lines = [];
  write(first);
});

function write({ cert, key }: Pick<Pair, "cert" | "key">): void {
  writeFileSync(files.cert, cert);
  writeFileSync(files.key, key);
}

describe("the signer of releases, from files", () => {
  it("takes a renewed certificate with its key, once, and says so", async () => {
    const { signer, renew } = await openSigner(files, logger);
    expect(signer.chain).toEqual([first.der]);
    await renew();
    expect(lines).toEqual([]);
    write(second);
    await renew();
    expect(signer.chain).toEqual([second.der]);
    expect(signer.privateKey.export({ type: "pkcs8", format: "pem" })).toBe(second.key);
    await renew();
    expect(lines).toEqual([`info releases are signed with a new certificate {"file":${JSON.stringify(files.cert)}}`]);
  });

  it("notices a chain that has grown, though its leaf is the same", async () => {
    const { signer, renew } = await openSigner(files, logger);
    const before = signer.headers.vault;
    // The certificate is its own issuer.
    write({ ...first, cert: first.cert + first.cert });
    await renew();
    expect(signer.chain).toHaveLength(2);
    expect(signer.headers.vault).not.toBe(before);
  });

  it.each<[string, () => Pick<Pair, "cert" | "key">, RegExp]>([
    ["half of a new pair", () => ({ cert: second.cert, key: first.key }), /is not for its key/],
    ["half a file", () => ({ cert: second.cert.slice(0, 300), key: second.key }), /r\.crt/],
    ["no key", () => ({ cert: second.cert, key: "" }), /r\.key/],
    [
      "a key that cannot sign releases",
      () => ({ cert: second.cert, key: generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ type: "pkcs8", format: "pem" }) as string }),
      /RS256 alone/,
    ],
  ])("goes on with what it has when the files hold %s", async (_what, change, problem) => {
    const { signer, renew } = await openSigner(files, logger);
    write(change());
    await renew();
    expect(signer.chain).toEqual([first.der]);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(/^error the certificate for releases cannot be renewed/);
    expect(lines[0]).toMatch(problem);
    // The bytes of a key are in no message.
    expect(lines[0]).not.toContain(first.key.split("\n")[1]);
    write(second);
    await renew();
    expect(signer.chain).toEqual([second.der]);
    await expect(openSigner({ ...files, key: join(directory, "none") }, logger)).rejects.toMatchObject({ code: "ERR_SERVICE_CONFIG" });
  });
});
