import { create, LinuxSeccompSchema, type MessageInitShape } from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import { runtimeSeccomp } from "./seccomp.ts";
import { errorOf } from "./test-support.ts";

type Profile = Exclude<MessageInitShape<typeof LinuxSeccompSchema>, { readonly $typeName: string }>;
const seccomp = (profile: Profile): unknown => runtimeSeccomp(create(LinuxSeccompSchema, profile));
const allow = { DefaultAction: "SCMP_ACT_ALLOW" } as const;
const rule = (fields: object): Profile => ({ ...allow, Syscalls: [{ Names: ["mount"], Action: "SCMP_ACT_ERRNO", ...fields }] });

describe("seccomp", () => {
  it("goes to the runtime as the OCI specification has it", () => {
    expect(
      seccomp({
        DefaultAction: "SCMP_ACT_ERRNO",
        Architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        Flags: ["SECCOMP_FILTER_FLAG_LOG"],
        Syscalls: [
          { Names: ["read", "write"], Action: "SCMP_ACT_ALLOW" },
          { Names: ["clone"], Action: "SCMP_ACT_ALLOW", Args: [{ Index: 0n, Value: 2n ** 64n - 1n, ValueTwo: 3n, Op: "SCMP_CMP_MASKED_EQ" }] },
          { Names: ["clone3"], Action: "SCMP_ACT_ERRNO", ErrnoRet: { case: "errnoret", value: 38 } },
        ],
      }),
    ).toEqual({
      defaultAction: "SCMP_ACT_ERRNO",
      architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
      flags: ["SECCOMP_FILTER_FLAG_LOG"],
      syscalls: [
        { names: ["read", "write"], action: "SCMP_ACT_ALLOW" },
        { names: ["clone"], action: "SCMP_ACT_ALLOW", args: [{ index: 0n, value: 2n ** 64n - 1n, valueTwo: 3n, op: "SCMP_CMP_MASKED_EQ" }] },
        { names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: 38 },
      ],
    });
    expect(seccomp(allow)).toEqual({ defaultAction: "SCMP_ACT_ALLOW" });
  });

  it.each<[string, Profile]>([
    ["no default action", {}],
    ["an unknown default action", { DefaultAction: "SCMP_ACT_MAYBE" }],
    ["a listener that nobody is", { DefaultAction: "SCMP_ACT_NOTIFY" }],
    ["an unknown flag", { ...allow, Flags: ["SECCOMP_FILTER_FLAG_NEW_LISTENER"] }],
    ["an architecture that is no name", { ...allow, Architectures: ["x86"] }],
    ["an unknown action", rule({ Action: "SCMP_ACT_TRACE" })],
    ["a rule without a name", rule({ Names: [] })],
    ["a name that is none", rule({ Names: ["mount\0"] })],
    ["more names than there are", rule({ Names: Array.from({ length: 4097 }, () => "mount") })],
    ["more names in all", { ...allow, Syscalls: [1, 2].map(() => ({ Names: Array.from({ length: 2049 }, () => "mount"), Action: "SCMP_ACT_ALLOW" })) }],
    ["a call that pretends to have worked", rule({ ErrnoRet: { case: "errnoret", value: 0 } })],
    ["an error that there is not", rule({ ErrnoRet: { case: "errnoret", value: 4096 } })],
    ["an error of an action without one", rule({ Action: "SCMP_ACT_ALLOW", ErrnoRet: { case: "errnoret", value: 1 } })],
    ["a seventh argument", rule({ Args: [{ Index: 6n, Op: "SCMP_CMP_EQ" }] })],
    ["an unknown operator", rule({ Args: [{ Index: 0n, Op: "SCMP_CMP_LIKE" }] })],
  ])("refuses %s", async (_what, profile) => {
    expect((await errorOf(() => seccomp(profile))).code).toBe("ERR_AGENT_REQUEST");
  });
});
