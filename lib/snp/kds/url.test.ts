import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  azureCachePath,
  chainUrl,
  chipIdLength,
  crlUrl,
  ENDORSEMENT_KINDS,
  encodeTcb,
  formatTcbNumber,
  MAX_ENDORSEMENT_PATH,
  parseAzureCachePath,
  parseKdsPath,
  parseTcbNumber,
  PRODUCT_NAMES,
  type ProductName,
  SnpError,
  vcekUrl,
} from "../index.ts";

const HWID = "ab".repeat(64);
const MILAN = `/vcek/v1/Milan/${HWID}?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219`;
const TURIN = `/vcek/v1/Turin/${"ab".repeat(8)}?fmcSPL=1&blSPL=1&teeSPL=1&snpSPL=4&ucodeSPL=81`;
const AZURE = `/SevSnpVM/certificates/${HWID}/db18000000000004?api-version=2020-10-15-preview&clientId=sealpod`;

const product = fc.constantFrom(...PRODUCT_NAMES);
const level = fc.integer({ min: 0, max: 255 });

function chipOf(name: ProductName, bytes: Uint8Array): Uint8Array {
  const chip = new Uint8Array(64);
  chip.set(bytes.subarray(0, chipIdLength(name)));
  return chip;
}

describe("paths of AMD's service (specs/attestation.md 1.6)", () => {
  it("are read as they are written", () => {
    fc.assert(
      fc.property(
        product,
        fc.uint8Array({ minLength: 64, maxLength: 64 }),
        level,
        level,
        level,
        level,
        level,
        (name, bytes, fmc, bootloader, tee, snp, microcode) => {
          const turin = name === "Turin";
          const tcb = encodeTcb({ fmc: turin ? fmc : undefined, bootloader, tee, snp, microcode, reserved: turin ? [0, 0, 0] : [0, 0, 0, 0] }, name);
          const chipId = chipOf(name, bytes);
          expect(parseKdsPath(vcekUrl(name, chipId, tcb, ""))).toEqual({ kind: "vcek", product: name, chipId, tcb });
        },
      ),
    );
    for (const name of PRODUCT_NAMES) {
      for (const endorsement of ENDORSEMENT_KINDS) {
        expect(parseKdsPath(chainUrl(endorsement, name, ""))).toEqual({ kind: "cert_chain", endorsement, product: name });
        expect(parseKdsPath(crlUrl(endorsement, name, ""))).toEqual({ kind: "crl", endorsement, product: name });
      }
    }
  });

  it("are read with zeros in front of the levels, in any order, in either case of hex", () => {
    const expected = parseKdsPath(MILAN);
    expect(parseKdsPath(`/vcek/v1/Milan/${HWID}?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219`)).toEqual(expected);
    expect(parseKdsPath(`/vcek/v1/Milan/${HWID}?ucodeSPL=219&snpSPL=024&teeSPL=000&blSPL=004`)).toEqual(expected);
    expect(parseKdsPath(MILAN.replace(HWID, HWID.toUpperCase()))).toEqual(expected);
  });

  it.each<[string, string, string]>([
    ["nothing", "", "path"],
    ["the root", "/", "path"],
    ["a path that is not absolute", MILAN.slice(1), "path"],
    ["a URL", `https://kdsintf.amd.com${MILAN}`, "path"],
    ["another hierarchy", MILAN.replace("vcek", "asvk"), "path"],
    ["another version", MILAN.replace("v1", "v2"), "path"],
    ["another product", MILAN.replace("Milan", "Rome"), "product"],
    ["a product in another case", MILAN.replace("Milan", "milan"), "product"],
    ["a product of the prototype", "/vcek/v1/constructor/cert_chain", "product"],
    ["no chip", "/vcek/v1/Milan", "path"],
    ["an empty chip", "/vcek/v1/Milan/?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219", "path"],
    ["a chip that climbs", `/vcek/v1/Milan/../../../etc/passwd?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219`, "path"],
    ["a chip that climbs in disguise", `/vcek/v1/Milan/..%2f..%2fetc%2fpasswd?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219`, "path"],
    ["a chip with a NUL", `/vcek/v1/Milan/${HWID.slice(2)}\u{0}?blSPL=4`, "path"],
    ["a chip with an odd digit", MILAN.replace(HWID, HWID.slice(1)), "hwid"],
    ["a short chip", MILAN.replace(HWID, HWID.slice(0, 16)), "hwid"],
    ["a long chip of Turin", TURIN.replace("ab".repeat(8), HWID), "hwid"],
    ["more segments", `/vcek/v1/Milan/cert_chain/x`, "path"],
    ["a trailing slash", `/vcek/v1/Milan/cert_chain/`, "path"],
    ["a chain with parameters", `/vcek/v1/Milan/cert_chain?a=b`, "query"],
    ["a VLEK", MILAN.replace("/vcek", "/vlek"), "path"],
    ["no levels", `/vcek/v1/Milan/${HWID}`, "query"],
    ["a missing level", MILAN.replace("&teeSPL=0", ""), "query"],
    ["a missing FMC", TURIN.replace("fmcSPL=1&", ""), "query"],
    ["an FMC on Milan", MILAN.replace("?", "?fmcSPL=1&"), "query"],
    ["an unknown level", `${MILAN}&spl4=0`, "query"],
    ["a level twice", `${MILAN}&blSPL=4`, "query"],
    ["a level without value", MILAN.replace("teeSPL=0", "teeSPL="), "query"],
    ["a level without sign", MILAN.replace("teeSPL=0", "teeSPL"), "query"],
    ["a level of 256", MILAN.replace("219", "256"), "query"],
    ["a negative level", MILAN.replace("219", "-1"), "query"],
    ["a level in hex", MILAN.replace("219", "0xdb"), "query"],
    ["a level with an exponent", MILAN.replace("219", "1e2"), "query"],
    ["a level in other digits", MILAN.replace("219", "２"), "query"],
    ["a broken escape", MILAN.replace("219", "%zz"), "query"],
    ["an empty parameter", `${MILAN}&`, "query"],
    ["a path without end", `${MILAN}${"0".repeat(MAX_ENDORSEMENT_PATH)}`, "path"],
  ])("refuse %s", (_name, path, field) => {
    expect(() => parseKdsPath(path)).toThrow(expect.objectContaining({ code: "ERR_SNP_KDS_PATH", details: { field } }));
  });
});

describe("paths of Azure's cache (specs/attestation.md 1.7)", () => {
  it("are read as they are written", () => {
    const bytes = (length: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ minLength: length, maxLength: length });
    fc.assert(
      fc.property(
        bytes(64),
        bytes(8),
        fc.string({ maxLength: 20 }).filter((text) => text.isWellFormed() && !text.startsWith("clientId=")),
        (chipId, tcb, clientId) => {
          expect(parseAzureCachePath(azureCachePath(chipId, tcb, clientId))).toEqual({ chipId, tcb, clientId });
          expect(parseTcbNumber(formatTcbNumber(tcb))).toEqual(tcb);
        },
      ),
    );
  });

  it("are read with or without zeros in front of the TCB, in either case, with or without a client", () => {
    const expected = parseAzureCachePath(AZURE.replace("db18000000000004", "8000000000004"));
    expect(parseAzureCachePath(AZURE.replace("db18000000000004", "0008000000000004"))).toEqual(expected);
    expect(parseAzureCachePath(AZURE.toLowerCase().replace("sevsnpvm", "SevSnpVM").replace("clientid", "clientId"))).toEqual(parseAzureCachePath(AZURE));
    expect(parseAzureCachePath(AZURE.replace("&clientId=sealpod", "")).clientId).toBeUndefined();
  });

  it.each<[string, string]>([
    ["nothing", ""],
    ["another kind of machine", AZURE.replace("SevSnpVM", "Tdx")],
    ["no chip", "/SevSnpVM/certificates"],
    ["a short chip", AZURE.replace(HWID, HWID.slice(2))],
    ["a chip that climbs", AZURE.replace(HWID, "..")],
    ["a TCB of 17 digits", AZURE.replace("db18", "0db18")],
    ["no TCB", AZURE.replace("db18000000000004", "")],
    ["a TCB that is none", AZURE.replace("db18", "0xdb")],
    ["more segments", AZURE.replace("?", "/x?")],
    ["no version", AZURE.replace("api-version=2020-10-15-preview&", "")],
    ["a version that is none", AZURE.replace("2020-10-15-preview", "latest")],
    ["a version twice", `${AZURE}&api-version=2020-10-15-preview`],
    ["another parameter", `${AZURE}&path=/etc`],
    ["a long client", AZURE.replace("sealpod", "a".repeat(129))],
  ])("refuse %s", (_name, path) => {
    expect(() => parseAzureCachePath(path)).toThrow(expect.objectContaining({ code: "ERR_SNP_KDS_PATH" }));
  });
});

describe("malformed paths", () => {
  it("give ERR_SNP_KDS_PATH and no other error, over ten thousand mutations", () => {
    const characters = fc.constantFrom(
      "/",
      "?",
      "&",
      "=",
      "%",
      ".",
      "..",
      "%2f",
      "%00",
      "\u{0}",
      "0",
      "f",
      "ff",
      "é",
      "\u{d800}",
      "Milan",
      "blSPL=1",
      "99999",
      "-",
    );
    const edit = fc.record({ at: fc.nat(), remove: fc.nat(9), insert: fc.array(characters, { maxLength: 3 }) });
    let refused = 0;
    fc.assert(
      fc.property(fc.constantFrom(MILAN, TURIN, AZURE, "/vlek/v1/Genoa/cert_chain"), fc.array(edit, { minLength: 1, maxLength: 4 }), (seed, edits) => {
        let path = seed;
        for (const { at, remove, insert } of edits) {
          const from = at % (path.length + 1);
          path = path.slice(0, from) + insert.join("") + path.slice(from + remove);
        }
        for (const parse of [parseKdsPath, parseAzureCachePath]) {
          try {
            parse(path);
          } catch (error) {
            if (!(error instanceof SnpError) || error.code !== "ERR_SNP_KDS_PATH") throw error;
            expect(error.message.length).toBeLessThan(300);
            refused++;
          }
        }
      }),
      { numRuns: 10_000 },
    );
    expect(refused).toBeGreaterThan(10_000);
  });
});
