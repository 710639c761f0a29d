import { encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { compileRules, containerId, guestBefore, type Mutable, PolicyGuest, sandboxRequest, set, type Shape, SHAPES, testPod } from "./test-support.ts";

const PODS = new Map(SHAPES.map((shape) => [shape, { pod: testPod(shape), policy: compileRules(testPod(shape).data) }]));

/** A guest in which all containers run. */
function running(shape: Shape): PolicyGuest {
  const { pod, policy } = PODS.get(shape) ?? fail();
  return guestBefore(pod, 4, policy);
}

/** One whose policy has other settings for requests. */
function withDefaults(shape: Shape, defaults: JsonObject): PolicyGuest {
  const pod = testPod(shape);
  Object.assign(pod.data["request_defaults"] as Mutable, defaults);
  return guestBefore(pod, 4);
}

function fail(): never {
  throw new Error("no such pod");
}

describe("CreateSandbox", () => {
  it("is allowed as Kata makes it, before the first container", () => {
    for (const shape of SHAPES) {
      const { pod, policy } = PODS.get(shape) ?? fail();
      const guest = new PolicyGuest(pod.data, policy);
      expect(guest.refusal("CreateSandboxRequest", sandboxRequest()), shape).toBeUndefined();
      expect(guest.create(shape, pod.requests[0] ?? fail())).toBeUndefined();
      expect(guest.refusal("CreateSandboxRequest", sandboxRequest())).toMatch(/^the sandbox exists already: found \[.*\], policy allows \[\]$/);
    }
  });

  for (const [name, change, reason] of [
    ["hooks", set("guest_hook_path", "/x"), 'sandbox: guest_hook_path: found "/x", policy allows ""'],
    ["kernel modules", set("kernel_modules", [{ name: "x", parameters: [] }]), /^sandbox: kernel_modules: found \[.*\], policy allows \[\]$/],
    ["a process namespace", set("sandbox_pidns", true), "sandbox: sandbox_pidns: found true, policy allows false"],
    ["a storage elsewhere", set("storages/0/mount_point", "/etc"), /^sandbox: storage: found \{.*"mount_point":"\/etc".*\}, policy allows \[\{/],
    ["a shared directory of the host", set("storages/0/source", "kataShared"), /^sandbox: storage: found \{.*\}, policy allows \[\{/],
    ["other options", set("storages/0/options/0", "exec"), /^sandbox: storage: found \{.*\}, policy allows \[\{/],
    ["a shared storage", set("storages/0/shared", true), /^sandbox: storage: found \{.*\}, policy allows \[\{/],
    ["a group", set("storages/0/fs_group", { group_id: 0, group_change_policy: 0 }), /^sandbox: storage: found \{.*\}, policy allows \[\{/],
    [
      "a storage twice",
      (request: Mutable): void => void request["storages"]?.push(structuredClone(request["storages"][0]) as never),
      /^sandbox: number of storages: found 2, policy allows 1$/,
    ],
  ] as const) {
    it(`is refused with ${name}`, () => {
      for (const shape of SHAPES) {
        const { pod, policy } = PODS.get(shape) ?? fail();
        const request = sandboxRequest();
        change(request);
        const refusal = new PolicyGuest(pod.data, policy).refusal("CreateSandboxRequest", request);
        if (typeof reason === "string") expect(refusal).toBe(reason);
        else expect(refusal).toMatch(reason);
      }
    });
  }
});

/** The probe of `web`, or what a test makes of it. */
function exec(shape: Shape, args: readonly string[], change: (request: Mutable) => void = () => undefined): Mutable {
  const { pod } = PODS.get(shape) ?? fail();
  const process = (pod.requests[2] ?? fail())["OCI"]?.["Process"] ?? fail();
  const request = {
    container_id: containerId(2),
    exec_id: "e1",
    string_user: null,
    process: { ...(process as JsonObject), Args: args, Capabilities: null, Terminal: false },
    stdin_port: 0,
    stdout_port: 0,
    stderr_port: 0,
  };
  const copy = structuredClone(request) as unknown as Mutable;
  change(copy);
  return copy;
}

describe("ExecProcess", () => {
  const refusal = (shape: Shape, args: readonly string[], change?: (request: Mutable) => void): string | undefined =>
    running(shape).refusal("ExecProcessRequest", exec(shape, args, change));

  for (const shape of SHAPES) {
    it(`is allowed for the container's own probe in ${shape}`, () => expect(refusal(shape, ["cat", "/healthy"])).toBeUndefined());
  }

  for (const [name, change, reason] of [
    ["another command", set("process/Args", ["sh"]), 'container "web": exec: found ["sh"], policy allows [["cat","/healthy"]]'],
    ["no command", set("process/Args", []), 'container "web": exec: found [], policy allows [["cat","/healthy"]]'],
    ["an argument more", set("process/Args/-", ""), /^container "web": exec: found \["cat","\/healthy",""\]/],
    ["the command in one word", set("process/Args", ["cat /healthy"]), /^container "web": exec: found \["cat \/healthy"\]/],
    ["another container", set("container_id", containerId(3)), 'container "skr": exec: found ["cat","/healthy"], policy allows []'],
    ["a container that does not exist", set("container_id", "ee".repeat(32)), `exec: container "${"ee".repeat(32)}" does not exist`],
    ["a name of the state", set("container_id", "sandbox"), 'exec: container "sandbox" does not exist'],
    ["a terminal", set("process/Terminal", true), /^container "web": exec: found/],
    ["another user", set("process/User/UID", 0), 'container "web": process.User.UID: found 0, policy allows 101'],
    ["another group", set("process/User/GID", 0), 'container "web": process.User.GID: found 0, policy allows 101'],
    ["more groups", set("process/User/AdditionalGids/-", 0), /^container "web": process\.User\.AdditionalGids: found/],
    ["another directory", set("process/Cwd", "/"), 'container "web": process.Cwd: found "/", policy allows "/srv"'],
    ["privileges", set("process/NoNewPrivileges", true), 'container "web": process.NoNewPrivileges: found true, policy allows false'],
    ["another variable", set("process/Env/-", "LD_PRELOAD=/x"), 'container "web": process.Env: found "LD_PRELOAD=/x", policy allows []'],
    ["a variable twice", set("process/Env/-", "LEVEL=high"), /number of names in process\.Env/],
    [
      "a variable less",
      (request: Mutable): void => void request["process"]?.["Env"]?.splice(2, 1),
      'container "web": missing in process.Env: found ["LEVEL"], policy allows []',
    ],
    ["TERM without a terminal", set("process/Env/-", "TERM=xterm"), /process\.Env: found "TERM=xterm"/],
    ["capabilities", set("process/Capabilities", { Bounding: ["CAP_SYS_ADMIN"] }), /^container "web": process\.Capabilities: found .*, policy allows null$/],
    [
      "empty lists of capabilities",
      set("process/Capabilities", { Bounding: [], Effective: [], Inheritable: [], Permitted: [], Ambient: [] }),
      /process\.Capabilities: found/,
    ],
    ["a SELinux label", set("process/SelinuxLabel", "x"), /process\.SelinuxLabel: found "x"/],
    ["an AppArmor profile", set("process/ApparmorProfile", "x"), /process\.ApparmorProfile: found "x"/],
    ["a user by name", set("string_user", { uid: "root", gid: "", additionalGids: [] }), /string_user: found/],
    ["no process", set("process", null), /^exec/],
  ] as const) {
    it(`is refused with ${name}`, () => {
      for (const shape of ["aks", "coco"] as const) {
        const found = refusal(shape, ["cat", "/healthy"], change);
        if (name === "no process") expect(found).toBeDefined();
        else if (typeof reason === "string") expect(found).toBe(reason);
        else expect(found).toMatch(reason);
      }
    });
  }

  it("is refused once the container is removed", () => {
    const guest = running("aks");
    expect(guest.refusal("RemoveContainerRequest", { container_id: containerId(2) })).toBeUndefined();
    expect(guest.refusal("ExecProcessRequest", exec("aks", ["cat", "/healthy"]))).toBe(`exec: container "${containerId(2)}" does not exist`);
  });

  it("is refused altogether if no container has a probe and the settings name no command", () => {
    const pod = testPod("aks");
    set("containers/2/exec_commands", [])(pod.data);
    expect(guestBefore(pod, 4).refusal("ExecProcessRequest", exec("aks", ["cat", "/healthy"]))).toMatch(
      /exec: found \["cat","\/healthy"\], policy allows \[\]$/,
    );
  });

  it("takes commands and patterns of the settings in every container, with a terminal too", () => {
    const lists = { allowed_commands: [["id", "-u"]], regex: ["ls [a-z]+"] };
    const guest = withDefaults("aks", { ExecProcessRequest: lists });
    const terminal = (request: Mutable): void => {
      set("process/Terminal", true)(request);
      set("process/Env/-", "TERM=xterm")(request);
    };
    expect(guest.refusal("ExecProcessRequest", exec("aks", ["id", "-u"]))).toBeUndefined();
    expect(guest.refusal("ExecProcessRequest", exec("aks", ["id", "-u"], terminal))).toBeUndefined();
    expect(guest.refusal("ExecProcessRequest", exec("aks", ["ls", "tmp"]))).toBeUndefined();
    for (const args of [["ls", "/tmp"], ["ls", "tmp", ";x"], ["xls", "tmp"], ["id"]])
      expect(guest.refusal("ExecProcessRequest", exec("aks", args)), args.join(" ")).toMatch(/exec: found/);
    expect(
      withDefaults("aks-tool", { ExecProcessRequest: { commands: ["id -u"], regex: [] } }).refusal("ExecProcessRequest", exec("aks-tool", ["id", "-u"])),
    ).toBeUndefined();
  });
});

describe("CopyFile", () => {
  const base = `/run/kata-containers/shared/containers/${containerId(2)}-0123456789abcdef-`;
  const CASES: readonly (readonly [path: string, link: string | undefined, allowed: boolean])[] = [
    [`${base}hosts`, undefined, true],
    [`${base}app/..2024_01_01/key`, undefined, true],
    [`${base}app/..data`, "..2024_01_01", true],
    [`${base}app/key`, "..data/key", true],
    [`${base}app/../../../etc/passwd`, undefined, false],
    [`${base}app/..`, undefined, false],
    ["/etc/passwd", undefined, false],
    ["/x/run/kata-containers/shared/containers/", undefined, false],
    ["/run/kata-containers/shared/containers/short-0123456789abcdef-hosts", undefined, false],
    [`/run/kata-containers/shared/containers/${containerId(2)}/etc/passwd`, undefined, false],
    [`${base}hosts`, "x", false],
    [`${base}app/key`, "/etc/passwd", false],
    [`${base}app/key`, "../../x", false],
    [`${base}app/key`, "a/..", false],
    [`${base}app/../key`, "a", false],
  ];
  for (const shape of SHAPES) {
    const today = shape === "coco" || shape === "kata-tool";
    for (const [path, link, allowed] of CASES) {
      it(`${allowed ? "allows" : "refuses"} ${encodeJson([path, link ?? null])} in ${shape}`, () => {
        const header = { path, file_size: 1, file_mode: 0o100644, dir_mode: 0o755, uid: 0, gid: 0, offset: 0 };
        const input = today
          ? { ...header, file_type: link === undefined ? "Regular" : "Symlink", symlink_target: link ?? null }
          : { ...header, symlink_src: link ?? "" };
        const refusal = running(shape).refusal("CopyFileRequest", input);
        if (allowed) expect(refusal).toBeUndefined();
        else expect(refusal).toMatch(/^copied file: found \[".*",\[(?:".*")?\]\], policy allows \["\^/);
      });
    }
  }
  it("refuses what is neither file nor directory nor link", () => {
    const input = { path: `${base}x`, symlink_target: null };
    for (const [file_type, allowed] of [
      ["Directory", true],
      ["Unknown", false],
      ["Fifo", false],
    ] as const) {
      expect(running("coco").refusal("CopyFileRequest", { ...input, file_type }) === undefined, file_type).toBe(allowed);
    }
    expect(running("coco").refusal("CopyFileRequest", { ...input, file_type: "Unknown" })).toBe(
      'copied file: type: found "Unknown", policy allows ["Directory","Regular","Symlink"]',
    );
  });
});

describe("network", () => {
  const iface = { device: "eth0", name: "eth0", IPAddresses: [], mtu: 1500, hwAddr: "02:00:00:00:00:01", devicePath: "", type_: "", raw_flags: 0 };
  const route = { dest: "", gateway: "10.0.0.1", device: "eth0", source: "", scope: 0, family: 0, flags: 0, mtu: 0 };
  const neighbor = { toIPAddress: { family: 0, address: "10.0.0.1", mask: "" }, device: "eth0", lladdr: "02:00:00:00:00:02", state: 128, flags: 0 };

  it("takes ordinary interfaces and routes", () => {
    for (const shape of SHAPES) {
      const guest = running(shape);
      expect(guest.refusal("UpdateInterfaceRequest", { interface: iface })).toBeUndefined();
      expect(guest.refusal("UpdateInterfaceRequest", { interface: { ...iface, raw_flags: 128 } })).toBeUndefined();
      expect(guest.refusal("UpdateRoutesRequest", { routes: { Routes: [route, { ...route, source: "10.0.0.2", dest: "10.0.0.0/8" }] } })).toBeUndefined();
    }
  });
  it("keeps the loopback out of the host's hands", () => {
    for (const shape of SHAPES) {
      const guest = running(shape);
      expect(guest.refusal("UpdateInterfaceRequest", { interface: { ...iface, name: "lo" } })).toBe('interface: name: found "lo", policy allows "others"');
      expect(guest.refusal("UpdateInterfaceRequest", { interface: { ...iface, hwAddr: "00:00:00:00:00:00" } })).toBe(
        'interface: hwAddr: found "00:00:00:00:00:00", policy allows "others"',
      );
      expect(guest.refusal("UpdateInterfaceRequest", { interface: { ...iface, raw_flags: 256 } })).toBe("interface: raw_flags: found 256, policy allows 0");
      expect(guest.refusal("UpdateInterfaceRequest", { interface: null })).toBeDefined();
      expect(guest.refusal("UpdateRoutesRequest", { routes: { Routes: [{ ...route, device: "lo" }] } })).toBe(
        'route: device: found "lo", policy allows "others"',
      );
      for (const address of ["127.0.0.1", "127.8.0.0/16", "::1", "::1/128"]) {
        expect(guest.refusal("UpdateRoutesRequest", { routes: { Routes: [{ ...route, source: address }] } })).toBe(
          `route: source: found "${address}", policy allows "others"`,
        );
        expect(guest.refusal("UpdateRoutesRequest", { routes: { Routes: [route, { ...route, dest: address }] } })).toBe(
          `route: dest: found "${address}", policy allows "others"`,
        );
      }
    }
    const guest = running("aks");
    for (const source of ["0:0:0:0:0:0:0:1", "0000:0000:0000:0000:0000:0000:0000:0001", "::ffff:127.0.0.1"]) {
      expect(guest.refusal("UpdateRoutesRequest", { routes: { Routes: [{ ...route, source }] } })).toBe(
        `route: source: found "${source}", policy allows "others"`,
      );
    }
  });
  it("takes neighbours where the settings have limits for them", () => {
    const ask = (shape: Shape, change: JsonObject): string | undefined =>
      running(shape).refusal("AddARPNeighborsRequest", { neighbors: { ARPNeighbors: [neighbor, { ...neighbor, ...change }] } });
    expect(ask("coco", {})).toBeUndefined();
    expect(ask("coco", { state: 2, flags: 8 })).toBeUndefined();
    expect(ask("coco", { device: "lo" })).toBe('neighbor: device: found "lo", policy allows "others"');
    expect(ask("coco", { toIPAddress: { family: 0, address: "127.0.0.1", mask: "" } })).toBe('neighbor: address: found "127.0.0.1", policy allows "others"');
    expect(ask("coco", { toIPAddress: { family: 0, address: "10.0.0.1", mask: "24" } })).toBe('neighbor: mask: found "24", policy allows ""');
    expect(ask("coco", { state: 1 })).toBe("neighbor: state: found 1, policy allows [2,128]");
    expect(ask("coco", { flags: 1 })).toBe("neighbor: flags: found 137, policy allows 136");
    expect(ask("aks", {})).toBe("");
  });
  it("follows the settings' lists", () => {
    const guest = withDefaults("coco", {
      UpdateInterfaceRequest: { allow_raw_flags: 0, forbidden_names: ["eth0"], forbidden_hw_addrs: [] },
      UpdateRoutesRequest: { forbidden_device_names: ["eth0"], forbidden_source_regex: [] },
    });
    expect(guest.refusal("UpdateInterfaceRequest", { interface: iface })).toBe('interface: name: found "eth0", policy allows "others"');
    expect(guest.refusal("UpdateInterfaceRequest", { interface: { ...iface, name: "eth1", raw_flags: 128 } })).toMatch(/raw_flags/);
    expect(guest.refusal("UpdateRoutesRequest", { routes: { Routes: [route] } })).toBe('route: device: found "eth0", policy allows "others"');
  });
});

describe("requests that a setting decides", () => {
  for (const name of ["ReadStreamRequest", "WriteStreamRequest", "UpdateEphemeralMountsRequest", "GetDiagnosticDataRequest", "CloseStdinRequest"]) {
    it(`${name} follows request_defaults.${name}, and is refused for anything but true`, () => {
      expect(withDefaults("coco", { [name]: true }).refusal(name, {})).toBeUndefined();
      for (const value of [false, "true", 1, null] as const) {
        expect(withDefaults("coco", { [name]: value }).refusal(name, {})).toBe("");
      }
    });
  }
  it("ends input for who may write, where there is no setting for it", () => {
    expect(running("aks").refusal("CloseStdinRequest", {})).toBe("");
    expect(withDefaults("aks", { WriteStreamRequest: true }).refusal("CloseStdinRequest", {})).toBeUndefined();
  });
});

describe("requests that are decided by their name", () => {
  const ALLOWED = [
    "DestroySandbox",
    "GetOOMEvent",
    "GuestDetails",
    "OnlineCPUMem",
    "RemoveStaleVirtiofsShareMounts",
    "SignalProcess",
    "StatsContainer",
    "TtyWinResize",
    "WaitProcess",
  ];
  const REFUSED = [
    "AddSwap",
    "AddSwapPath",
    "GetIPTables",
    "GetMetrics",
    "ListInterfaces",
    "ListRoutes",
    "MemHotplugByProbe",
    "PauseContainer",
    "PullImage",
    "ReseedRandomDev",
    "ResizeVolume",
    "ResumeContainer",
    "SetGuestDateTime",
    "SetIPTables",
    "StartTracing",
    "StopTracing",
    "UpdateContainer",
    "VolumeStats",
  ];
  it("allows what a pod needs to run", () => {
    for (const shape of SHAPES) for (const name of ALLOWED) expect(running(shape).refusal(`${name}Request`, {}), name).toBeUndefined();
  });
  it("refuses the rest", () => {
    for (const shape of SHAPES) {
      const guest = running(shape);
      for (const name of REFUSED) expect(guest.refusal(`${name}Request`, {}), name).toBe("");
      for (const name of ["MemAgentMemcgConfig", "MemAgentCompactConfig", "AllowRequestsFailingPolicy"]) expect(guest.refusal(name, {})).toBe("");
      expect(guest.refusal("SetPolicyRequest", { policy: "x" })).toBe("the policy cannot be replaced");
    }
  });
  it("refuses every guarded request that is empty or of another form", () => {
    for (const name of ["CreateContainer", "CreateSandbox", "ExecProcess", "CopyFile", "UpdateInterface", "UpdateRoutes", "AddARPNeighbors"]) {
      for (const input of [{}, null, [], "x", 5, { base: null }, { base: {} }, { process: {} }, { interface: {} }, { routes: {} }] as const) {
        expect(running("coco").refusal(`${name}Request`, input as JsonValue), `${name} ${JSON.stringify(input)}`).toBeDefined();
      }
    }
  });
});

describe("StartContainer and RemoveContainer", () => {
  it("are allowed for what does not exist, which the agent refuses by itself, and then change nothing", () => {
    for (const shape of SHAPES) {
      const guest = running(shape);
      for (const id of ["sandbox", "started-1", "../sandbox", "ee".repeat(32)] as const) {
        for (const name of ["StartContainerRequest", "RemoveContainerRequest"])
          expect(guest.refusal(name, { container_id: id, timeout: 0 }), name).toBeUndefined();
      }
      for (const input of [{}, null, { container_id: 5 }] as const) expect(guest.refusal("RemoveContainerRequest", input)).toBeUndefined();
      expect(guest.create(shape, testPod(shape).requests[0] ?? fail())).toMatch(/exists already/);
    }
  });
});
