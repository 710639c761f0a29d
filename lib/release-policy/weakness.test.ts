import { describe, expect, it } from "vitest";
import { encodeUtf8 } from "@sealpod/core";
import { anyoneCanSatisfy, openToDebugging, parseReleasePolicy, type ReleasePolicy } from "./index.ts";

const authority = "https://maa.test";
const HOSTDATA = { claim: "x-ms-sevsnpvm-hostdata", equals: "ab".repeat(32) };
const MEASUREMENT = { claim: "x-ms-sevsnpvm-launchmeasurement", equals: "cd".repeat(48) };
const STATUS = { claim: "x-ms-compliance-status", equals: "azure-signed-katacc-uvm" };
const SEALED = { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" };
const TYPE = { claim: "x-ms-attestation-type", equals: "sevsnpvm" };

const policy = (...anyOf: object[]): ReleasePolicy =>
  parseReleasePolicy(encodeUtf8(JSON.stringify({ version: "1.0.0", anyOf: anyOf.map((item) => ({ authority, ...item })) })));
const all = (...allOf: object[]): ReleasePolicy => policy({ allOf });

describe("anyoneCanSatisfy", () => {
  it.each([
    ["HOST_DATA and a signed VM", all(TYPE, HOSTDATA, STATUS, SEALED)],
    ["HOST_DATA and a measured VM", all(HOSTDATA, MEASUREMENT)],
    ["HOST_DATA and the signer of the VM", all(HOSTDATA, { claim: "x-ms-sevsnpvm-idkeydigest", equals: "12".repeat(48) })],
    ["one VM", all({ claim: "x-ms-sevsnpvm-reportid", equals: "12".repeat(32) })],
    ["one wrapping key", all({ claim: "x-ms-sevsnpvm-reportdata", equals: `${"12".repeat(32)}${"00".repeat(32)}` })],
    ["one of two pods", all(STATUS, { anyOf: [HOSTDATA, { ...HOSTDATA, equals: "cd".repeat(32) }] })],
  ])("has nothing to say against %s", (_what, subject) => {
    expect(anyoneCanSatisfy(subject)).toEqual([]);
  });

  it.each<readonly [string, ReleasePolicy, readonly (readonly [string, string])[], RegExp]>([
    [
      "a VM alone",
      all(TYPE, STATUS, SEALED),
      [["any-pod", "$.anyOf[0].allOf"]],
      /any pod .* signed, the same one for every pod.* Add a condition on x-ms-sevsnpvm-hostdata/,
    ],
    ["a measurement alone", all(MEASUREMENT), [["any-pod", "$.anyOf[0].allOf"]], /digest of the utility VM, the same one for every pod/],
    ["HOST_DATA alone", all(HOSTDATA, SEALED), [["any-guest", "$.anyOf[0].allOf"]], /VM that enforces nothing .* HOST_DATA is what its host says/],
    ["HOST_DATA that was never set", all({ ...HOSTDATA, equals: "00".repeat(32) }, STATUS), [["any-pod", "$.anyOf[0].allOf"]], /all zeros when it was not set/],
    [
      "a confidential VM of Azure",
      all(HOSTDATA, { ...STATUS, equals: "azure-compliant-cvm" }),
      [["any-guest", "$.anyOf[0].allOf"]],
      /does not say which software/,
    ],
    [
      "claims below x-ms-isolation-tee",
      all({ claim: "x-ms-isolation-tee.x-ms-sevsnpvm-launchmeasurement", equals: "ab" }),
      [
        ["any-pod", "$.anyOf[0].allOf"],
        ["any-guest", "$.anyOf[0].allOf"],
      ],
      /whatever runs in it/,
    ],
    [
      "what the guest says of itself",
      all({ claim: "x-ms-runtime.user.name", equals: "me" }, STATUS),
      [["any-pod", "$.anyOf[0].allOf"]],
      /x-ms-runtime.user.name = "me" is chosen by the software in the VM/,
    ],
    [
      "what the starter says of the pod",
      all({ claim: "x-ms-inittime.owner", equals: "me" }, STATUS),
      [["any-pod", "$.anyOf[0].allOf"]],
      /whoever starts the pod/,
    ],
    [
      "a claim that nobody knows",
      all({ claim: "sdk-test", equals: "true" }),
      [
        ["any-pod", "$.anyOf[0].allOf"],
        ["any-guest", "$.anyOf[0].allOf"],
      ],
      /no claim of SEV-SNP/,
    ],
    [
      "a second authority without the pod",
      policy({ allOf: [HOSTDATA, STATUS] }, { allOf: [STATUS] }),
      [["any-pod", "$.anyOf[1].allOf"]],
      /At \$\.anyOf\[1\]\.allOf/,
    ],
    [
      "alternatives, each by its place",
      policy({ anyOf: [{ allOf: [HOSTDATA, STATUS] }, TYPE, { allOf: [STATUS, { anyOf: [HOSTDATA, SEALED] }] }] }),
      [
        ["any-pod", "$.anyOf[0].anyOf[1]"],
        ["any-pod", "$.anyOf[0].anyOf[2].allOf"],
        ["any-guest", "$.anyOf[0].anyOf[1]"],
      ],
      /x-ms-attestation-type = "sevsnpvm" is the kind of evidence/,
    ],
  ])("finds %s", (_what, subject, expected, reason) => {
    const found = anyoneCanSatisfy(subject);
    expect(found.map(({ kind, path }) => [kind, path])).toEqual(expected);
    expect(found[0]?.reason).toMatch(reason);
    expect(found[0]?.authority).toBe(authority);
  });

  it("gives no more branches than the policy has conditions", () => {
    const either = { anyOf: Array.from({ length: 14 }, () => TYPE) };
    expect(anyoneCanSatisfy(policy({ allOf: Array.from({ length: 15 }, () => either) }))).toHaveLength(2);
  });
});

describe("openToDebugging", () => {
  it("finds branches that do not shut out a VM whose memory can be read", () => {
    expect(openToDebugging(all(HOSTDATA, STATUS, SEALED))).toEqual([]);
    expect(openToDebugging(all(HOSTDATA, STATUS, { ...SEALED, equals: false }))).toEqual([]);
    for (const open of [all(HOSTDATA, STATUS), all(HOSTDATA, STATUS, { ...SEALED, equals: "true" }), all({ anyOf: [SEALED, STATUS] })])
      expect(openToDebugging(open)).toMatchObject([{ kind: "debuggable", reason: expect.stringContaining('is-debuggable is "false"') as string }]);
  });
});
