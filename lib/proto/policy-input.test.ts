import { encodeJson, parseJson } from "@sealpod/core";
import { ScalarType } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  AgentService,
  AnySchema,
  CopyFileRequestSchema,
  CreateContainerRequestSchema,
  FSGroupChangePolicy,
  Health,
  IPFamily,
  LinuxSeccompSchema,
  LinuxSyscallSchema,
  MemAgentCompactConfigSchema,
  MemAgentMemcgConfigSchema,
  MemHotplugByProbeRequestSchema,
  MountSchema,
  POSIXRlimitSchema,
  ProtoError,
  SpecSchema,
  StatsContainerResponseSchema,
  StorageSchema,
  UpdateInterfaceRequestSchema,
  WriteStreamRequestSchema,
  create,
  encodeMessage,
  parseMessage,
  policyInput,
  type DescMessage,
} from "./index.ts";

/** Plain objects with prototypes, so that `toEqual` can be used on them. */
function input<D extends DescMessage>(schema: D, message: Parameters<typeof encodeMessage<D>>[1]): unknown {
  return JSON.parse(encodeJson(policyInput(schema, parseMessage(schema, encodeMessage(schema, message)))));
}

/** All messages that can be part of a request to the agent. */
function requestMessages(): ReadonlySet<DescMessage> {
  const seen = new Set<DescMessage>();
  const visit = (message: DescMessage): void => {
    if (seen.has(message)) return;
    seen.add(message);
    for (const field of message.fields) if (field.message !== undefined) visit(field.message);
  };
  for (const method of AgentService.methods) visit(method.input);
  return seen;
}

describe("policy input, specs/runtime.md 3.5", () => {
  it("rule 1: names are those of the .proto file", () => {
    expect(Object.keys(policyInput(CreateContainerRequestSchema, create(CreateContainerRequestSchema)))).toEqual([
      "container_id",
      "exec_id",
      "string_user",
      "devices",
      "storages",
      "OCI",
      "sandbox_pidns",
      "shared_mounts",
      "stdin_port",
      "stdout_port",
      "stderr_port",
    ]);
    expect(input(UpdateInterfaceRequestSchema, { interface: { IPAddresses: [{ family: IPFamily.v6, address: "::1", mask: "128" }], hwAddr: "aa" } })).toEqual({
      interface: {
        device: "",
        name: "",
        IPAddresses: [{ family: 1, address: "::1", mask: "128" }],
        mtu: 0,
        hwAddr: "aa",
        devicePath: "",
        type_: "",
        raw_flags: 0,
      },
    });
    expect(input(MemHotplugByProbeRequestSchema, { memHotplugProbeAddr: [1n] })).toEqual({ memHotplugProbeAddr: [1] });
    expect(input(SpecSchema, { Process: { OOMScoreAdj: -5n } })).toMatchObject({ Process: { OOMScoreAdj: -5 } });
  });

  it("rule 2: type becomes type_, Type does not", () => {
    expect(input(MountSchema, { destination: "/proc", source: "proc", type: "proc", options: ["ro"] })).toEqual({
      destination: "/proc",
      source: "proc",
      type_: "proc",
      options: ["ro"],
    });
    expect(input(POSIXRlimitSchema, { Type: "RLIMIT_NOFILE" })).toEqual({ Type: "RLIMIT_NOFILE", Hard: 0, Soft: 0 });
  });

  it("rule 2: no other reserved word of the serializer's language is a field name", () => {
    const reserved =
      "abstract as async await become box break const continue crate do dyn else enum extern false final fn for if impl in let loop macro match mod move mut override priv pub ref return self static struct super trait true try typeof union unsafe unsized use virtual where while yield".split(
        " ",
      );
    const names = [...requestMessages()].flatMap((message) => message.members.map((member) => member.name));
    expect(names.length).toBeGreaterThan(200);
    expect(names.filter((name) => reserved.includes(name))).toEqual([]);
    expect(names).toContain("type");
  });

  it("rule 3: every field is present, unset messages are null", () => {
    expect(input(StorageSchema, {})).toEqual({
      driver: "",
      driver_options: [],
      source: "",
      fstype: "",
      options: [],
      mount_point: "",
      fs_group: null,
      shared: false,
    });
    expect(input(SpecSchema, {})).toEqual({
      Version: "",
      Process: null,
      Root: null,
      Hostname: "",
      Mounts: [],
      Hooks: null,
      Annotations: {},
      Linux: null,
      Solaris: null,
      Windows: null,
    });
    expect(input(SpecSchema, { Process: {} })).toMatchObject({ Process: { ConsoleSize: null, User: null, Capabilities: null, Args: [], Terminal: false } });
  });

  it("rule 4: enums are integers, also those that have no name", () => {
    expect(input(StorageSchema, { fsGroup: { groupId: 7, groupChangePolicy: FSGroupChangePolicy.OnRootMismatch } })).toMatchObject({
      fs_group: { group_id: 7, group_change_policy: 1 },
    });
    const unnamed = parseMessage(StorageSchema, Uint8Array.of(0x3a, 0x02, 0x18, 0x63));
    expect(policyInput(StorageSchema, unnamed)).toMatchObject({ fs_group: { group_id: 0, group_change_policy: 99 } });
  });

  it("rule 4: bytes are arrays of integers", () => {
    expect(input(WriteStreamRequestSchema, { data: Uint8Array.of(0, 127, 255) })).toEqual({ container_id: "", exec_id: "", data: [0, 127, 255] });
  });

  it("rule 4: 64-bit integers keep every digit", () => {
    const rlimit = create(POSIXRlimitSchema, { Hard: 2n ** 64n - 1n, Soft: 2n ** 53n - 1n });
    const value = policyInput(POSIXRlimitSchema, rlimit);
    expect(value["Hard"]).toBe(18446744073709551615n);
    expect(value["Soft"]).toBe(9007199254740991);
    expect(encodeJson(value)).toBe('{"Type":"","Hard":18446744073709551615,"Soft":9007199254740991}');
    const negative = policyInput(CopyFileRequestSchema, create(CopyFileRequestSchema, { offset: -(2n ** 63n), fileSize: -1n }));
    expect(negative["offset"]).toBe(-9223372036854775808n);
    expect(negative["file_size"]).toBe(-1);
    const stats = policyInput(
      StatsContainerResponseSchema,
      create(StatsContainerResponseSchema, { cgroupStats: { memoryStats: { stats: { big: 2n ** 60n, small: 3n } } } }),
    );
    expect(stats).toMatchObject({ cgroup_stats: { memory_stats: { stats: { big: 2n ** 60n, small: 3 } } } });
  });

  it("rule 5: an optional field is its value or null, and zero is a value", () => {
    expect(input(MemAgentMemcgConfigSchema, { disabled: false, periodSecs: 0n })).toEqual({
      disabled: false,
      swap: null,
      swappiness_max: null,
      period_secs: 0,
      period_psi_percent_limit: null,
      eviction_psi_percent_limit: null,
      eviction_run_aging_count_min: null,
    });
    expect(Object.values(input(MemAgentCompactConfigSchema, {}) as object)).toEqual(Array.from({ length: 8 }, () => null));
  });

  it("rule 6: a oneof is null or one tagged variant", () => {
    expect(input(LinuxSyscallSchema, { Names: ["read"], Action: "SCMP_ACT_ERRNO", ErrnoRet: { case: "errnoret", value: 1 } })).toEqual({
      Names: ["read"],
      Action: "SCMP_ACT_ERRNO",
      ErrnoRet: { Errnoret: 1 },
      Args: [],
    });
    expect(input(LinuxSeccompSchema, { Syscalls: [{}] })).toMatchObject({ Syscalls: [{ Names: [], Action: "", ErrnoRet: null, Args: [] }] });
  });

  it("rule 7: unknown fields do not show", () => {
    const bytes = Uint8Array.of(...encodeMessage(MountSchema, { source: "s" }), 0xfa, 0x01, 0x01, 0x41);
    const message = parseMessage(MountSchema, bytes);
    expect(message.$unknown).toBeUndefined();
    expect(Object.keys(policyInput(MountSchema, message))).toEqual(["destination", "source", "type_", "options"]);
  });

  it("rule 8: maps and messages have no prototype, so no annotation can reach one", () => {
    const bytes = encodeMessage(SpecSchema, { Annotations: JSON.parse('{"__proto__":"x","constructor":"y"}') as Record<string, string> });
    const value = policyInput(SpecSchema, parseMessage(SpecSchema, bytes));
    expect(encodeJson(value["Annotations"] ?? null)).toBe('{"__proto__":"x","constructor":"y"}');
    expect(Object.getPrototypeOf(value)).toBeNull();
    expect(Object.getPrototypeOf(value["Annotations"])).toBeNull();
  });

  it("has no field kind that the rules do not speak of", () => {
    const floats = [...requestMessages()].flatMap((message) =>
      message.fields.filter((field) => field.scalar === ScalarType.DOUBLE || field.scalar === ScalarType.FLOAT),
    );
    expect(floats).toEqual([]);
    expect(requestMessages().has(AnySchema)).toBe(false);
  });

  it("refuses a message of another type", () => {
    expect(() => policyInput(MountSchema, create(SpecSchema))).toThrow(expect.objectContaining({ code: "ERR_PROTO_TYPE" }));
  });

  it("gives the minimal CreateContainerRequest its golden shape", () => {
    const value = input(CreateContainerRequestSchema, {
      containerId: "c1",
      execId: "c1",
      storages: [{ driver: "blk", source: "02", fstype: "tar", options: ["ro"], mountPoint: "/m" }],
      OCI: {
        Version: "1.1.0",
        Process: {
          User: {},
          Args: ["/bin/sh"],
          Env: ["PATH=/bin"],
          Cwd: "/",
          Capabilities: {},
          OOMScoreAdj: 1000n,
        },
        Root: { Path: "/run/kata-containers/c1/rootfs" },
        Mounts: [{ destination: "/proc", source: "proc", type: "proc", options: ["nosuid", "noexec", "nodev"] }],
        Linux: {
          Resources: {},
          CgroupsPath: "/c1",
          Namespaces: [{ Type: "ipc" }, { Type: "uts" }, { Type: "mount" }],
        },
      },
    });
    expect(value).toEqual({
      container_id: "c1",
      exec_id: "c1",
      string_user: null,
      devices: [],
      storages: [{ driver: "blk", driver_options: [], source: "02", fstype: "tar", options: ["ro"], mount_point: "/m", fs_group: null, shared: false }],
      OCI: {
        Version: "1.1.0",
        Process: {
          Terminal: false,
          ConsoleSize: null,
          User: { UID: 0, GID: 0, AdditionalGids: [], Username: "" },
          Args: ["/bin/sh"],
          Env: ["PATH=/bin"],
          Cwd: "/",
          Capabilities: { Bounding: [], Effective: [], Inheritable: [], Permitted: [], Ambient: [] },
          Rlimits: [],
          NoNewPrivileges: false,
          ApparmorProfile: "",
          OOMScoreAdj: 1000,
          SelinuxLabel: "",
        },
        Root: { Path: "/run/kata-containers/c1/rootfs", Readonly: false },
        Hostname: "",
        Mounts: [{ destination: "/proc", source: "proc", type_: "proc", options: ["nosuid", "noexec", "nodev"] }],
        Hooks: null,
        Annotations: {},
        Linux: {
          UIDMappings: [],
          GIDMappings: [],
          Sysctl: {},
          Resources: { Devices: [], Memory: null, CPU: null, Pids: null, BlockIO: null, HugepageLimits: [], Network: null },
          CgroupsPath: "/c1",
          Namespaces: [
            { Type: "ipc", Path: "" },
            { Type: "uts", Path: "" },
            { Type: "mount", Path: "" },
          ],
          Devices: [],
          Seccomp: null,
          RootfsPropagation: "",
          MaskedPaths: [],
          ReadonlyPaths: [],
          MountLabel: "",
          IntelRdt: null,
        },
        Solaris: null,
        Windows: null,
      },
      sandbox_pidns: false,
      shared_mounts: [],
      stdin_port: 0,
      stdout_port: 0,
      stderr_port: 0,
    });
  });
});

describe("the API on the wire", () => {
  it("has the service names and the methods of specs/runtime.md 2.1", () => {
    expect(AgentService.typeName).toBe("grpc.AgentService");
    expect(Health.typeName).toBe("grpc.Health");
    expect(AgentService.methods).toHaveLength(42);
    expect(AgentService.methods.every((method) => method.methodKind === "unary")).toBe(true);
    const odd = AgentService.methods.filter((method) => method.input.name !== `${method.name}Request`).map((method) => [method.name, method.input.name]);
    expect(Object.fromEntries(odd)).toEqual({
      GetGuestDetails: "GuestDetailsRequest",
      GetVolumeStats: "VolumeStatsRequest",
      MemAgentCompactSet: "MemAgentCompactConfig",
      MemAgentMemcgSet: "MemAgentMemcgConfig",
      ReadStderr: "ReadStreamRequest",
      ReadStdout: "ReadStreamRequest",
      WriteStdin: "WriteStreamRequest",
    });
  });

  it("encodes a storage as the specification numbers it", () => {
    const bytes = encodeMessage(StorageSchema, {
      driver: "d",
      driverOptions: ["o"],
      source: "s",
      fstype: "f",
      options: ["p"],
      mountPoint: "m",
      fsGroup: { groupId: 1 },
      shared: true,
    });
    expect(Buffer.from(bytes).toString("hex")).toBe("0a016412016f1a01732201662a017032016d3a0210014001");
  });

  it("gives structured errors for bytes that are no message, and for values that do not fit", () => {
    expect(() => parseMessage(StorageSchema, Uint8Array.of(0x0a, 0x7f))).toThrow(expect.objectContaining({ code: "ERR_PROTO_DECODE" }));
    expect(() => parseMessage(StorageSchema, Uint8Array.of(0x0a, 0x01, 0xff))).toThrow(expect.objectContaining({ code: "ERR_PROTO_DECODE" }));
    expect(() => encodeMessage(POSIXRlimitSchema, { Hard: -1n })).toThrow(expect.objectContaining({ code: "ERR_PROTO_ENCODE" }));
  });

  it("lets no other error escape from hostile bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          policyInput(CreateContainerRequestSchema, parseMessage(CreateContainerRequestSchema, bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(ProtoError);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it("survives its own JSON text", () => {
    const value = policyInput(POSIXRlimitSchema, create(POSIXRlimitSchema, { Hard: 2n ** 64n - 1n }));
    expect(parseJson(encodeJson(value))).toEqual(value);
  });
});
