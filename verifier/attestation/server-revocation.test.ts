import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { silentLogger, type LogFields, type Logger } from "@sealpod/core";
import { basicConstraints, issueCertificate, issueCrl, keyUsage, OID, type Certificate, type Crl } from "@sealpod/pki";
import type { EndorsementKind } from "@sealpod/snp";
import { describe, expect, it } from "vitest";
import { openRevocation, type RevocationLists } from "./server-revocation.ts";

const NOW = Date.UTC(2026, 10, 22);
const HOUR = 3_600_000;
const ports = { clock: { now: (): number => NOW }, random: { bytes: (length: number): Uint8Array => new Uint8Array(length) } };

interface Root {
  readonly certificate: Certificate;
  readonly key: KeyObject;
}

function root(name = "ARK-Milan"): Root {
  const key = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
  const certificate = issueCertificate({
    subject: [{ type: OID.commonName, value: name }],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "ecdsa-sha256",
    serial: 1n,
    notBefore: NOW - HOUR,
    notAfter: NOW + HOUR,
    extensions: [basicConstraints({ ca: true }), keyUsage("keyCertSign", "cRLSign")],
  });
  return { certificate, key };
}

/** A list, by its age in hours. */
function list(by: Root, age: number): Crl {
  return issueCrl({
    issuer: { name: by.certificate.subject, key: by.key },
    signatureAlgorithm: "ecdsa-sha256",
    thisUpdate: NOW - age * HOUR,
    nextUpdate: NOW + 24 * HOUR,
    revoked: [],
  });
}

/** A service whose lists change, and what the verifier holds of them. */
async function open(missing: "accept" | "refuse" = "refuse", logger: Logger = silentLogger) {
  const served = new Map<EndorsementKind, Crl>();
  const fetch = async (url: string): Promise<Response> => {
    const crl = served.get(url.includes("/vlek/") ? "vlek" : "vcek");
    return crl === undefined ? new Response("no", { status: 404 }) : new Response(crl.der as Uint8Array<ArrayBuffer>);
  };
  const revocation = { crls: { kind: "service", url: "https://cache.example" }, missing, refresh: HOUR } as const;
  const lists = await openRevocation(revocation, ["Milan"], { ...ports, logger, fetch });
  if (lists === undefined) throw new Error("not opened");
  const serve = async (kind: EndorsementKind, crl: Crl): Promise<void> => {
    served.set(kind, crl);
    await lists.refresh();
  };
  return { lists, serve };
}

/** Kind, age in hours, and whether it was verified, of each list that is held. */
function held({ options }: RevocationLists): readonly string[] {
  return options.crls("Milan").map((item) => {
    if (item.kind !== "tagged-crl") return item.kind;
    const crl = item.crl.kind === "crl" ? item.crl : item.crl.crl;
    return `${item.endorsement} ${(NOW - crl.thisUpdate) / HOUR} ${item.crl.kind}`;
  });
}

describe("revocation lists of a service", () => {
  const ark = root();

  it("are tagged with the kind that they were fetched for, and the one that is missing is named", async () => {
    const { lists, serve } = await open();
    await using _ = lists;
    expect(() => lists.check()).toThrow(/no revocation list of Milan \(VCEK\), Milan \(VLEK\) yet/);
    await serve("vlek", list(ark, 1));
    expect(held(lists)).toEqual(["vlek 1 crl"]);
    expect(() => lists.check()).toThrow(/no revocation list of Milan \(VCEK\) yet/);
    await serve("vcek", list(ark, 2));
    expect(held(lists)).toEqual(["vcek 2 crl", "vlek 1 crl"]);
    lists.check();
    expect(lists.options.crls("Genoa")).toEqual([]);
  });

  it("that are missing are nobody's trouble where they are not needed", async () => {
    const { lists } = await open("accept");
    await using _ = lists;
    lists.check();
  });

  it("are kept side by side until evidence brings the root's certificate, then the newest that it signed", async () => {
    const { lists, serve } = await open();
    await using _ = lists;
    await serve("vcek", list(ark, 5));
    await serve("vcek", list(root(), 1));
    await serve("vcek", list(ark, 7));
    expect(held(lists)).toEqual(["vcek 1 crl", "vcek 5 crl", "vcek 7 crl"]);
    // Another root of the product: an emulator's says nothing about AMD's.
    lists.options.learnRoot?.("Milan", root("EMULATED ARK-Milan").certificate);
    lists.options.learnRoot?.("Genoa", ark.certificate);
    expect(held(lists)).toHaveLength(3);
    lists.options.learnRoot?.("Milan", ark.certificate);
    expect(held(lists)).toEqual(["vcek 5 verified-crl"]);
  });

  it("give way to a newer one alone, and only if the root signed it", async () => {
    const logged: LogFields[] = [];
    const { lists, serve } = await open("refuse", {
      ...silentLogger,
      log: (_level, message, fields) => void (message.includes("not taken") && logged.push(fields ?? {})),
    });
    await using _ = lists;
    lists.options.learnRoot?.("Milan", ark.certificate);
    const first = list(ark, 5);
    await serve("vcek", first);
    expect(held(lists)).toEqual(["vcek 5 verified-crl"]);
    await serve("vcek", first);
    expect(logged).toEqual([]);
    await serve("vcek", list(ark, 6));
    await serve("vcek", list(root(), 1));
    expect(held(lists)).toEqual(["vcek 5 verified-crl"]);
    expect(logged.map((fields) => fields["problem"])).toEqual(["it is no newer than the one that is there", "its issuer did not sign it"]);
    await serve("vcek", list(ark, 4));
    expect(held(lists)).toEqual(["vcek 4 verified-crl"]);
  });

  it("that nobody can verify stay a few, the newest", async () => {
    const { lists, serve } = await open();
    await using _ = lists;
    for (const age of [9, 3, 8, 4, 7, 5, 3]) await serve("vcek", list(ark, age));
    expect(held(lists)).toEqual(["vcek 3 crl", "vcek 3 crl", "vcek 4 crl", "vcek 5 crl"]);
    // One that another signed under the root's name is shown as long as there is no genuine one: then evidence is refused, and the reason is told.
    const other = await open();
    await using __ = other.lists;
    other.lists.options.learnRoot?.("Milan", ark.certificate);
    await other.serve("vcek", list(root(), 1));
    expect(held(other.lists)).toEqual(["vcek 1 crl"]);
    await other.serve("vcek", list(ark, 2));
    expect(held(other.lists)).toContain("vcek 2 verified-crl");
  });
});
