import { encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import {
  compileRules,
  containerId,
  guestBefore,
  type Mutable,
  PolicyGuest,
  POD_UID,
  SANDBOX_ID,
  SECRET,
  set,
  type Shape,
  SHAPES,
  testPod,
} from "./test-support.ts";

type Change = (request: Mutable) => void;
type Attack = readonly [name: string, change: Change, reason: string | RegExp];

const PODS = new Map(SHAPES.map((shape) => [shape, { pod: testPod(shape), policy: compileRules(testPod(shape).data) }]));

/** What comes of the request for one container after one change. */
function refusalAfter(shape: Shape, index: number, change: Change): string | undefined {
  const { pod, policy } = PODS.get(shape) ?? fail();
  const request = structuredClone(pod.requests[index] ?? fail());
  change(request);
  return guestBefore(pod, index, policy).create(shape, request);
}

function fail(): never {
  throw new Error("no such pod");
}

function listAt(request: Mutable, ...path: readonly string[]): JsonValue[] {
  return path.reduce((node, step) => node[step as never] as Mutable, request) as unknown as JsonValue[];
}

const env = (request: Mutable): string[] => listAt(request, "OCI", "Process", "Env") as string[];
const replaceEnv =
  (from: string, to: string): Change =>
  (request) => {
    const at = env(request).indexOf(from);
    expect(at, from).toBeGreaterThanOrEqual(0);
    env(request)[at] = to;
  };
const dropEnv =
  (name: string): Change =>
  (request) => {
    const at = env(request).findIndex((variable) => variable.startsWith(`${name}=`));
    expect(at, name).toBeGreaterThanOrEqual(0);
    env(request).splice(at, 1);
  };
const mountAt = (request: Mutable, destination: string): Record<string, JsonValue> => {
  const mounts = listAt(request, "OCI", "Mounts") as unknown as Record<string, JsonValue>[];
  return mounts.find((mount) => mount["destination"] === destination) ?? fail();
};
const setMount =
  (destination: string, field: string, value: JsonValue): Change =>
  (request) => {
    mountAt(request, destination)[field] = value;
  };

describe("CreateContainer of an honest host", () => {
  for (const shape of SHAPES) {
    it(`is allowed for each container of ${shape}, wrapped and bare, without a word`, () => {
      const { pod, policy } = PODS.get(shape) ?? fail();
      for (const wrap of [(request: JsonObject) => request, (request: JsonObject): JsonObject => ({ base: request, env_map: {} })]) {
        const guest = new PolicyGuest(pod.data, policy);
        for (const request of pod.requests) {
          expect(guest.refusal("CreateContainerRequest", wrap(request))).toBeUndefined();
          expect(guest.refusal("StartContainerRequest", { container_id: request["container_id"] ?? "" })).toBeUndefined();
        }
      }
    });

    it(`is allowed in ${shape} with variables in another order, what Kubernetes adds, and fewer files of the host`, () => {
      const change: Change = (request) => {
        env(request).reverse().push("SERVICE_8=80", "AZURE_CLIENT_ID=", "FOO_PORT_1_TCP=tcp://1.2.3.4:5");
        set("OCI/Mounts", listAt(request, "OCI", "Mounts").filter((mount) => (mount as JsonObject)["destination"] !== "/etc/app") as JsonValue)(request);
        set("OCI/Linux/MaskedPaths/-", "/proc/interrupts")(request);
        set("OCI/Linux/ReadonlyPaths/-", "/sys/devices/virtual/powercap")(request);
        set("OCI/Linux/Resources/Memory", { Limit: 1 })(request);
        set("OCI/Process/OOMScoreAdj", -5)(request);
        set("OCI/Annotations/io.kubernetes.cri.sandbox-memory", "1")(request);
        set("OCI/Annotations/team", "^shop$")(request);
      };
      expect(refusalAfter(shape, 2, change)).toBeUndefined();
    });
  }

  it("is allowed with layers at PCI paths and addresses", () => {
    for (const source of ["02", "02/0a", "0001:00:01.0"]) expect(refusalAfter("aks", 2, set("storages/0/source", source))).toBeUndefined();
  });

  it("is allowed with an address of either family, and a limit of the node", () => {
    for (const address of ["255.0.0.1", "fd00::1"])
      expect(refusalAfter("aks", 2, replaceEnv("URL=http://10.1.2.3:80/a.b", `URL=http://${address}:80/a.b`))).toBeUndefined();
    expect(refusalAfter("aks", 2, replaceEnv("LIMIT=536870912", "LIMIT=0"))).toBeUndefined();
  });
});

/** One change each of the request for `web`; the one reason must be this. For our settings in both profiles. */
const ATTACKS: readonly Attack[] = [
  // who
  ["container id", set("container_id", "../x"), 'container "web": container_id: found "../x", policy allows "^[0-9a-f]{64}$"'],
  ["container id of another", set("container_id", containerId(1)), `container "web": exists already: found ["${containerId(1)}"], policy allows []`],
  [
    "container name",
    set("OCI/Annotations/io.kubernetes.cri.container-name", "debug"),
    /^container: found \["container","debug"\], policy allows \[\["sandbox","pause"\],/,
  ],
  ["container type", set("OCI/Annotations/io.kubernetes.cri.container-type", "sandbox"), /^container: found \["sandbox","web"\]/],
  [
    "name of another container",
    set("OCI/Annotations/io.kubernetes.cri.container-name", "skr"),
    'container "skr": OCI.Process.Terminal: found false, policy allows true',
  ],
  [
    "sandbox name",
    set("OCI/Annotations/io.kubernetes.cri.sandbox-name", "web-1.b"),
    /^container "web": sandbox: found \{.*"name":"web-1\.b".*\}, policy allows \{.*"name":"web-1\.a"/,
  ],
  ["sandbox namespace", set("OCI/Annotations/io.kubernetes.cri.sandbox-namespace", "other"), /^container "web": sandbox: found \{.*"namespace":"other"/],
  ["sandbox uid", set("OCI/Annotations/io.kubernetes.cri.sandbox-uid", "x"), /^container "web": sandbox: found/],
  ["sandbox id", set("OCI/Annotations/io.kubernetes.cri.sandbox-id", "11".repeat(32)), /^container "web": sandbox: found/],
  ["sandbox id, odd", set("OCI/Annotations/io.kubernetes.cri.sandbox-id", ".*"), 'container "web": sandbox id: found ".*", policy allows "^[0-9a-f]{64}$"'],
  // annotations
  ["annotation of the pod", set("OCI/Annotations/team", "evil"), 'container "web": annotation team: found "evil", policy allows "^shop$"'],
  ["annotation of the pod taken for a pattern", set("OCI/Annotations/team", "shop"), /annotation team: found "shop"/],
  [
    "annotation of Kata",
    set("OCI/Annotations/io.katacontainers.config.x", "1"),
    'container "web": annotation io.katacontainers.config.x: found "1", policy allows null',
  ],
  ["bundle path", set("OCI/Annotations/io.katacontainers.pkg.oci.bundle_path", "/tmp"), /annotation io\.katacontainers\.pkg\.oci\.bundle_path: found "\/tmp"/],
  [
    "bundle path of another",
    set("OCI/Annotations/io.katacontainers.pkg.oci.bundle_path", `/run/containerd/io.containerd.runtime.v2.task/k8s.io/${SANDBOX_ID}`),
    /bundle_path: found/,
  ],
  [
    "Kata's container type",
    set("OCI/Annotations/io.katacontainers.pkg.oci.container_type", "pod_sandbox"),
    /container_type: found "pod_sandbox", policy allows "pod_container"$/,
  ],
  [
    "termination message",
    set("OCI/Annotations/io.kubernetes.container.terminationMessagePolicy", "Elsewhere"),
    /terminationMessagePolicy: found "Elsewhere", policy allows null$/,
  ],
  // process
  ["terminal", set("OCI/Process/Terminal", true), 'container "web": OCI.Process.Terminal: found true, policy allows false'],
  ["argument", set("OCI/Process/Args/0", "/bin/sh"), /^container "web": process\.Args: found \["\/bin\/sh",.*\], policy allows \["\/usr\/bin\/node",/],
  ["argument of a form", set("OCI/Process/Args/1", "--node=a b"), /^container "web": process\.Args: found/],
  ["argument that names another pod", set("OCI/Process/Args/2", "web-1xa"), /^container "web": process\.Args: found/],
  ["argument taken for a pattern", set("OCI/Process/Args/4", "abc"), /^container "web": process\.Args: found/],
  ["escaped argument as in the policy", set("OCI/Process/Args/3", "$$literal"), /^container "web": process\.Args: found/],
  ["argument more", set("OCI/Process/Args/-", "x"), /^container "web": process\.Args: found/],
  ["argument fewer", (request) => void listAt(request, "OCI", "Process", "Args").pop(), /^container "web": process\.Args: found/],
  ["arguments in another order", (request) => void listAt(request, "OCI", "Process", "Args").reverse(), /^container "web": process\.Args: found/],
  ["directory", set("OCI/Process/Cwd", "/"), 'container "web": process.Cwd: found "/", policy allows "/srv"'],
  ["new privileges", set("OCI/Process/NoNewPrivileges", true), 'container "web": process.NoNewPrivileges: found true, policy allows false'],
  ["user", set("OCI/Process/User/UID", 0), 'container "web": process.User.UID: found 0, policy allows 101'],
  ["group", set("OCI/Process/User/GID", 0), 'container "web": process.User.GID: found 0, policy allows 101'],
  ["group more", set("OCI/Process/User/AdditionalGids/-", 0), 'container "web": process.User.AdditionalGids: found [0,101,2000], policy allows [101,2000]'],
  ["group fewer", set("OCI/Process/User/AdditionalGids", []), 'container "web": process.User.AdditionalGids: found [], policy allows [101,2000]'],
  ["user name", set("OCI/Process/User/Username", "root"), 'container "web": process.User.Username: found "root", policy allows ""'],
  ["no user", set("OCI/Process/User", null), 'container "web": process.User.GID: found "missing", policy allows 101'],
  ["SELinux label", set("OCI/Process/SelinuxLabel", "x"), 'container "web": process.SelinuxLabel: found "x", policy allows ""'],
  // environment
  ["variable more", set("OCI/Process/Env/-", "NODE_OPTIONS=--inspect"), 'container "web": process.Env: found "NODE_OPTIONS=--inspect", policy allows []'],
  ["empty variable", set("OCI/Process/Env/-", ""), 'container "web": process.Env: found "", policy allows []'],
  ["variable without value", set("OCI/Process/Env/-", "LEVEL"), 'container "web": process.Env: found "LEVEL", policy allows ["LEVEL=high"]'],
  ["variable twice", set("OCI/Process/Env/-", "LEVEL=high"), /^container "web": number of names in process\.Env: found \d+, policy allows \d+$/],
  ["variable twice, second address", set("OCI/Process/Env/-", "URL=http://10.9.9.9:80/a.b"), /^container "web": number of names in process\.Env/],
  ["another value", replaceEnv("LEVEL=high", "LEVEL=low"), 'container "web": process.Env: found "LEVEL=low", policy allows ["LEVEL=high"]'],
  ["variable left out", dropEnv("LEVEL"), 'container "web": missing in process.Env: found ["LEVEL"], policy allows []'],
  ["variable of a form left out", dropEnv("NODE"), 'container "web": missing in process.Env: found ["NODE"], policy allows []'],
  ["name of the pod's taken for Kubernetes'", replaceEnv("HOSTNAME=web-1.a", "HOSTNAME=other"), /process\.Env: found "HOSTNAME=other"/],
  ["value with a doubled dollar", replaceEnv("PRICE=5$", "PRICE=5$$"), /process\.Env: found "PRICE=5\$\$"/],
  [
    "node name with a line break",
    replaceEnv("NODE=node-7.example", "NODE=a\nb"),
    'container "web": process.Env: found "NODE=a\\nb", policy allows ["NODE=$(node-name)"]',
  ],
  ["placeholder as value", replaceEnv("NODE=node-7.example", "NODE=$(node-name)"), /process\.Env: found "NODE=\$\(node-name\)"/],
  ["pod's UID", replaceEnv(`UID=${POD_UID}`, `UID=${POD_UID.replace("0", "1")}`), /process\.Env: found "UID=/],
  ["address out of range", replaceEnv("URL=http://10.1.2.3:80/a.b", "URL=http://10.1.2.256:80/a.b"), /process\.Env: found "URL=/],
  ["text around an address", replaceEnv("URL=http://10.1.2.3:80/a.b", "URL=http://10.1.2.3:80/aXb"), /process\.Env: found "URL=/],
  ["resource field", replaceEnv("LIMIT=536870912", "LIMIT=1k"), /process\.Env: found "LIMIT=1k"/],
  ["namespace", replaceEnv("SPACE=default", "SPACE=other"), /process\.Env: found "SPACE=other"/],
  ["secret", replaceEnv(SECRET, "PASSWORD=guess"), /process\.Env: found "PASSWORD=guess", policy allows \["PASSWORD=\$\(sha256:[0-9a-f]{64}\)"\]/],
  ["secret's hash", (request) => replaceEnv(SECRET, hashEntry())(request), /process\.Env: found "PASSWORD=\$\(sha256:/],
  ["secret left out", dropEnv("PASSWORD"), /missing in process\.Env: found \["PASSWORD"\]/],
  ["port that is none", set("OCI/Process/Env/-", "SERVICE_1=x"), /process\.Env: found "SERVICE_1=x"/],
  // capabilities
  [
    "capability",
    set("OCI/Process/Capabilities/Bounding/-", "CAP_SYS_ADMIN"),
    /^container "web": OCI\.Process\.Capabilities\.Bounding: found \[.*"CAP_SYS_ADMIN"\], policy allows \["CAP_CHOWN"/,
  ],
  [
    "ambient capability",
    set("OCI/Process/Capabilities/Ambient", ["CAP_CHOWN"]),
    'container "web": OCI.Process.Capabilities.Ambient: found ["CAP_CHOWN"], policy allows []',
  ],
  [
    "capability that the policy spells with a placeholder",
    set("OCI/Process/Capabilities/Bounding", ["$(default_caps)"]),
    /Capabilities\.Bounding: found \["\$\(default_caps\)"\]/,
  ],
  ["no capabilities", set("OCI/Process/Capabilities", null), /^container "web": OCI\.Process\.Capabilities\.\w+: found "missing"/],
  [
    "a list of capabilities is null",
    set("OCI/Process/Capabilities/Inheritable", null),
    'container "web": OCI.Process.Capabilities.Inheritable: found "missing", policy allows []',
  ],
  // storages
  [
    "storage more",
    (request) => listAt(request, "storages").push(structuredClone(listAt(request, "storages")[0] ?? null)),
    /^container "web": number of storages: found 5, policy allows 4$/,
  ],
  ["storage fewer", (request) => void listAt(request, "storages").shift(), /^container "web": number of storages: found 3, policy allows 4$/],
  [
    "layer in place of another",
    (request) => set("storages/1", structuredClone(listAt(request, "storages")[0] ?? null))(request),
    /storages by their number in the policy: found \[\[0\],\[0\],\[2\],\[3\]\], policy allows \[\[0\],\[1\],\[2\],\[3\]\]$/,
  ],
  ["layers of two places exchanged", (request) => swap(request, "options"), /^container "web": storage at ".*\/layers\/.*": options: found .*root-hash=/],
  [
    "root hash",
    set("storages/1/options/3", `io.katacontainers.fs-opt.root-hash=${"00".repeat(32)}`),
    /^container "web": storage at ".*": options: found .*root-hash=(?:00){32}"\], policy allows .*root-hash=[0-9a-f]{64}"\]$/,
  ],
  ["layer read-write", set("storages/0/options/0", "rw"), /options: found \["rw",/],
  ["layer without verity", set("storages/0/options", ["ro"]), /options: found \["ro"\]/],
  ["layer's driver", set("storages/0/driver", "local"), /: driver: found "local", policy allows "blk"$/],
  ["layer's file system", set("storages/0/fstype", "ext4"), /: fstype: found "ext4", policy allows "(?:tar|erofs)"$/],
  ["layer's source", set("storages/0/source", "/dev/sda"), /: source: found "\/dev\/sda"/],
  ["layer's source, pattern", set("storages/0/source", "02\n"), /: source: found "02\\n"/],
  [
    "layer of another image",
    set("storages/0/mount_point", `/run/kata-containers/sandbox/layers/${"00".repeat(32)}`),
    /^container "web": storage at: found ".*0000", policy allows \["\/run\/kata-containers\/sandbox\/layers\/[0-9a-f]{64}",/,
  ],
  ["overlay's layers", set("storages/2/options/4", "lowerdir=x"), /: options: found/],
  ["overlay's source", set("storages/2/source", "/x"), /: source: found "\/x", policy allows "none"$/],
  ["overlay elsewhere", set("storages/2/mount_point", "/run/x"), /^container "web": storage at: found "\/run\/x", policy allows \["/],
  ["volume elsewhere", set("storages/3/mount_point", "/usr/bin"), /^container "web": storage at: found "\/usr\/bin", policy allows \["/],
  ["volume's file system", set("storages/3/fstype", "9p"), /: fstype: found "9p"/],
  ["volume's options", set("storages/3/options", ["exec"]), /: options: found \["exec"\]/],
  ["volume's group", set("storages/3/fs_group", { group_id: 0, group_change_policy: 0 }), /: fs_group: found/],
  ["image pulled by the guest", set("storages/0/driver", "image_guest_pull"), /: driver: found "image_guest_pull"/],
  // root, mounts
  ["root", set("OCI/Root/Path", "/"), /^container "web": OCI\.Root\.Path: found "\/", policy allows "\/run\/kata-containers\//],
  ["root read-only", set("OCI/Root/Readonly", true), 'container "web": OCI.Root.Readonly: found true, policy allows false'],
  [
    "mount more",
    set("OCI/Mounts/-", { destination: "/host", source: "/", type_: "bind", options: ["rbind"] }),
    /^container "web": mount: found \{"destination":"\/host",.*, policy allows \[\]$/,
  ],
  ["mount source", setMount("/scratch", "source", "/etc"), /^container "web": mount: found .*"source":"\/etc"/],
  [
    "mount source that climbs",
    setMount("/etc/app", "source", `/run/kata-containers/shared/containers/${containerId(2)}-0123456789abcdef-../../etc/app`),
    /mount: found/,
  ],
  [
    "mount source of another container",
    setMount("/etc/app", "source", `/run/kata-containers/shared/containers/${containerId(1)}-0123456789abcdef-app`),
    /mount: found/,
  ],
  [
    "mount source with a line break",
    setMount("/etc/app", "source", `/run/kata-containers/shared/containers/${containerId(2)}-0123456789abcdef-app\n`),
    /mount: found/,
  ],
  [
    "mount source, more behind",
    setMount("/etc/app", "source", `/run/kata-containers/shared/containers/${containerId(2)}-0123456789abcdef-app/..`),
    /mount: found/,
  ],
  ["mount source, plain text taken for a pattern", setMount("/proc", "source", "proc/x"), /mount: found/],
  ["mount source, the pattern itself", setMount("/etc/app", "source", "$(sfprefix)app$"), /mount: found/],
  ["mount type", setMount("/proc", "type_", "bind"), /mount: found/],
  ["mount options", setMount("/etc/app", "options", ["rbind", "rprivate", "rw"]), /mount: found .*"rw"/],
  [
    "mount twice",
    (request) => listAt(request, "OCI", "Mounts").push(structuredClone(mountAt(request, "/proc"))),
    /number of destinations in OCI\.Mounts: found \d+, policy allows \d+$/,
  ],
  [
    "mount left out",
    (request) =>
      set(
        "OCI/Mounts",
        listAt(request, "OCI", "Mounts").filter((mount) => (mount as JsonObject)["destination"] !== "/scratch"),
      )(request),
    'container "web": missing in OCI.Mounts: found ["/scratch"], policy allows []',
  ],
  // Linux
  ["network namespace", set("OCI/Linux/Namespaces/-", { Type: "network", Path: "/proc/1/ns/net" }), /OCI\.Linux\.Namespaces: found .*network/],
  ["namespace's path", set("OCI/Linux/Namespaces/0/Path", "/proc/1/ns/ipc"), /OCI\.Linux\.Namespaces: found/],
  ["namespace fewer", (request) => void listAt(request, "OCI", "Linux", "Namespaces").pop(), /OCI\.Linux\.Namespaces: found/],
  [
    "masked path",
    (request) => void listAt(request, "OCI", "Linux", "MaskedPaths").shift(),
    'container "web": missing in OCI.Linux.MaskedPaths: found ["/proc/acpi"], policy allows []',
  ],
  [
    "read-only path",
    (request) => void listAt(request, "OCI", "Linux", "ReadonlyPaths").shift(),
    'container "web": missing in OCI.Linux.ReadonlyPaths: found ["/proc/bus"], policy allows []',
  ],
  [
    "file of the image hidden",
    set("OCI/Linux/MaskedPaths/-", "/etc/app/deny-list"),
    'container "web": OCI.Linux.MaskedPaths: found ["/etc/app/deny-list"], policy allows []',
  ],
  ["file of the image hidden, roundabout", set("OCI/Linux/ReadonlyPaths/-", "/proc/../etc"), /OCI\.Linux\.MaskedPaths: found \["\/proc\/\.\.\/etc"\]/],
  [
    "sysctl",
    set("OCI/Linux/Sysctl/kernel.core_pattern", "|/x"),
    /^container "web": OCI\.Linux\.Sysctl: found \{"kernel\.core_pattern":"\|\/x"\}, policy allows \{/,
  ],
  ["sysctl's value", set("OCI/Linux/Sysctl/net.ipv4.ip_unprivileged_port_start", "1"), /OCI\.Linux\.Sysctl: found/],
  [
    "device",
    set("devices/-", { id: "", type_: "blk", vm_path: "", container_path: "/dev/x", options: [] }),
    /^container "web": devices: found \[\{.*\}\], policy allows \[\]$/,
  ],
  [
    "device node",
    set("OCI/Linux/Devices/-", { Path: "/dev/mem", Type: "c", Major: 1, Minor: 1 }),
    /^container "web": OCI\.Linux\.Devices: found .*, policy allows \[\]$/,
  ],
  ["process namespace", set("sandbox_pidns", true), 'container "web": sandbox_pidns: found true, policy allows false'],
  ["version", set("OCI/Version", "1.0.0"), 'container "web": OCI.Version: found "1.0.0", policy allows "1.1.0"'],
  ...(
    [
      ["shared_mounts", [{ name: "x" }]],
      ["string_user", { uid: "0", gid: "0", additionalGids: [] }],
      ["OCI/Hooks", { Prestart: [] }],
      ["OCI/Solaris", { dummy: "" }],
      ["OCI/Windows", { dummy: "" }],
      ["OCI/Linux/GIDMappings", [{ HostID: 0 }]],
      ["OCI/Linux/IntelRdt", { L3CacheSchema: "" }],
      ["OCI/Linux/MountLabel", "x"],
      ["OCI/Linux/Resources/BlockIO", { Weight: 1 }],
      ["OCI/Linux/Resources/Devices", [{ Allow: true }]],
      ["OCI/Linux/Resources/Network", { ClassID: 1 }],
      ["OCI/Linux/Resources/Pids", { Limit: 1 }],
      ["OCI/Linux/RootfsPropagation", "shared"],
      ["OCI/Linux/Seccomp", { DefaultAction: "SCMP_ACT_ALLOW" }],
      ["OCI/Linux/UIDMappings", [{ HostID: 0 }]],
    ] as const
  ).map(([path, value]): Attack => {
    return [
      path,
      set(path, value as JsonValue),
      new RegExp(`^container "web": ${path.replaceAll("/", String.raw`\.`)}: found .*, policy allows (?:null|""|\\[\\])$`),
    ];
  }),
];

function hashEntry(): string {
  const containers = testPod("aks").data["containers"] as unknown as readonly { readonly OCI: { readonly Process: { readonly Env: readonly string[] } } }[];
  return containers[2]?.OCI.Process.Env.find((variable) => variable.startsWith("PASSWORD=")) ?? fail();
}

/** Exchanges a field of the first two layers. */
function swap(request: Mutable, field: string): void {
  const [first, second] = listAt(request, "storages") as unknown as Record<string, JsonValue>[];
  if (first === undefined || second === undefined) fail();
  [first[field], second[field]] = [second[field] ?? null, first[field] ?? null];
}

for (const shape of ["aks", "coco"] as const) {
  describe(`CreateContainer of ${shape} after one change`, () => {
    for (const [name, change, reason] of ATTACKS) {
      it(`is refused: ${name}`, () => {
        const refusal = refusalAfter(shape, 2, change);
        expect(refusal, "must be refused").toBeDefined();
        expect(refusal?.split("\n").length, `one reason, got:\n${refusal}`).toBe(1);
        if (typeof reason === "string") expect(refusal).toBe(reason);
        else expect(refusal).toMatch(reason);
      });
    }

    it("is refused with a value of another type where a collection belongs", () => {
      for (const path of [
        "storages",
        "storages/0/options",
        "devices",
        "OCI",
        ...["Annotations", "Mounts", "Mounts/0/options", "Process", "Root", "Linux"].map((list) => `OCI/${list}`),
        ...["Args", "Env", "User", "Capabilities"].map((list) => `OCI/Process/${list}`),
        ...["Bounding", "Inheritable"].map((list) => `OCI/Process/Capabilities/${list}`),
        ...["Namespaces", "MaskedPaths", "ReadonlyPaths", "Sysctl", "Devices", "Resources"].map((list) => `OCI/Linux/${list}`),
      ]) {
        for (const value of [null, true, 5, "x", [[]], { x: {} }] as const) {
          expect(refusalAfter(shape, 2, set(path, value)), `${path} ${encodeJson(value as JsonValue)}`).toBeDefined();
        }
      }
    });

    it("is refused in bounded time and with a short reason, however large what is found", () => {
      const long = "x".repeat(100_000);
      for (const change of [
        set("OCI/Process/Args/0", long),
        set("OCI/Process/Env/-", `A=${long}`),
        set(
          "OCI/Process/Env",
          Array.from({ length: 2000 }, (_, index) => `V${index}=x`),
        ),
        set("OCI/Mounts/0/source", long),
        set("storages/0/mount_point", long),
        set("OCI/Annotations/io.kubernetes.cri.sandbox-name", long),
        set("OCI/Annotations/x", long),
        set(
          "devices",
          Array.from({ length: 2000 }, () => ({ container_path: long.slice(0, 100) })),
        ),
      ]) {
        const refusal = refusalAfter(shape, 2, change);
        expect(refusal).toBeDefined();
        expect(refusal?.length).toBeLessThan(1200);
      }
    });
  });

  describe(`the order of containers in ${shape}`, () => {
    const { pod, policy } = PODS.get(shape) ?? fail();
    const request = (index: number): Mutable => structuredClone(pod.requests[index] ?? fail());

    it("begins with the pause container", () => {
      expect(new PolicyGuest(pod.data, policy).create(shape, request(1))).toMatch(
        /^container "fetch": sandbox: found .*, policy allows "the pause container first"$/,
      );
    });

    it("has init containers started before the others are created, and says for which it waits", () => {
      const guest = guestBefore(pod, 1, policy);
      expect(guest.create(shape, request(2))).toBe('container "web": has to wait for: found [1], policy allows []');
      expect(guest.create(shape, request(1))).toBeUndefined();
      expect(guest.create(shape, request(2))).toBe('container "web": has to wait for: found [1], policy allows []');
      expect(guest.refusal("StartContainerRequest", { container_id: containerId(1) })).toBeUndefined();
      expect(guest.create(shape, request(2))).toBeUndefined();
    });

    it("remembers an init container that was removed, as it is after it has done its work", () => {
      const guest = guestBefore(pod, 2, policy);
      expect(guest.refusal("RemoveContainerRequest", { container_id: containerId(1), timeout: 0 })).toBeUndefined();
      expect(guest.create(shape, request(2))).toBeUndefined();
    });

    it("lets each container exist once at a time", () => {
      const guest = guestBefore(pod, 3, policy);
      const again = withId(request(2), containerId(2), "dd".repeat(32));
      expect(guest.create(shape, request(2))).toBe(`container "web": exists already: found ["${containerId(2)}"], policy allows []`);
      expect(guest.create(shape, again)).toBe(`container "web": exists already: found ["${containerId(2)}"], policy allows []`);
      expect(guest.create(shape, request(0))).toMatch(/^container "pause": exists already/);
      expect(guest.refusal("RemoveContainerRequest", { container_id: containerId(2), timeout: 0 })).toBeUndefined();
      expect(guest.create(shape, again)).toBeUndefined();
    });

    it("is not changed by a denied request", () => {
      const guest = new PolicyGuest(pod.data, policy);
      const bad = request(0);
      set("OCI/Process/Cwd", "/x")(bad);
      expect(guest.create(shape, bad)).toBeDefined();
      const other = withId(request(0), SANDBOX_ID, "11".repeat(32));
      expect(guest.create(shape, other)).toBeUndefined();
    });
  });
}

/** The same container under another id. */
function withId(request: Mutable, from: string, to: string): Mutable {
  return JSON.parse(JSON.stringify(request).replaceAll(from, to)) as Mutable;
}

describe("the pause container", () => {
  for (const [name, change, reason] of [
    ["arguments", set("OCI/Process/Args", ["/bin/sh"]), 'container "pause": process.Args: found ["/bin/sh"], policy allows ["/pause"]'],
    ["name", set("OCI/Annotations/io.kubernetes.cri.sandbox-name", "web-1xa"), /annotation io\.kubernetes\.cri\.sandbox-(?:name|log-directory): found/],
    ["name, the pattern itself", set("OCI/Annotations/io.kubernetes.cri.sandbox-name", String.raw`^web-1\.[a-z]$`), /sandbox-(?:name|log-directory): found/],
    ["namespace", set("OCI/Annotations/io.kubernetes.cri.sandbox-namespace", "other"), /sandbox-(?:namespace|log-directory): found/],
    ["log directory", set("OCI/Annotations/io.kubernetes.cri.sandbox-log-directory", "/etc"), /sandbox-log-directory: found "\/etc"/],
    [
      "log directory of another pod",
      set("OCI/Annotations/io.kubernetes.cri.sandbox-log-directory", `/var/log/pods/default_web-1xa_${POD_UID}`),
      /sandbox-log-directory: found/,
    ],
    ["network namespace", networkNamespace, /annotation nerdctl\/network-namespace: found "\/proc\/1\/ns\/net"/],
  ] as const) {
    it(`is refused after a change of its ${name}`, () => {
      for (const shape of ["aks", "coco"] as const) {
        const refusal = refusalAfter(shape, 0, change);
        if (typeof reason === "string") expect(refusal).toBe(reason);
        else expect(refusal).toMatch(reason);
      }
    });
  }
});

/** Its name has a slash. */
function networkNamespace(request: Mutable): void {
  const annotations = (request["OCI"] as Mutable)["Annotations"] as Mutable;
  Object.assign(annotations, { "nerdctl/network-namespace": "/proc/1/ns/net" });
}
