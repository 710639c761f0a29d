import { encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import type { PolicyData } from "./index.ts";
import { compilePolicy, CONTAINER_ID, dataOf, Guest, policiesOf, requestOf, ROOT_HASHES, RULES, SANDBOX_ID, SETTINGS, wrapped } from "./test-support.ts";

const POD = `apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {team: shop, "io.katacontainers.config.x": "^literal$"}
spec:
  containers:
  - name: nginx
    image: nginx:1
    command: [/usr/bin/node, /app/webapp.mjs, "--node=$(NODE)", "$(POD)", "$$literal"]
    env:
    - {name: PATH, value: /opt/bin}
    - {name: LEVEL, value: high}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: URL, value: "http://$(IP):80/a.b"}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    livenessProbe: {exec: {command: [cat, /healthy]}}
    securityContext: {runAsUser: 101, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: memory, mountPath: /memory}
    - {name: config, mountPath: /etc/app}
  - name: sidecar
    image: sidecar:1
    tty: true
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: config, configMap: {name: c}}
`;

const IMAGES = { "nginx:1": { env: ["PATH=/bin", "NGINX=1"], workingDir: "/srv" }, "sidecar:1": { user: "1000", entrypoint: ["/bin/skr"], cmd: ["serve"] } };

type Mutable = { [name: string]: Mutable } & Mutable[] & JsonValue;

const [generated] = await policiesOf(POD, IMAGES);
const data: PolicyData = dataOf(generated);
/** Compiled once: each new guest starts with an empty state. */
const policy = compilePolicy(generated?.policy ?? "");

/** A guest whose sandbox and pause container exist. */
function started(): Guest {
  const guest = new Guest(policy);
  expect(guest.refusal("CreateContainerRequest", wrapped(requestOf(data, 0)))).toBeUndefined();
  return guest;
}

/** Refusal of the request for a container after one change of it. */
function refusalAfter(index: number, change: (request: Mutable) => void): string | undefined {
  const request = requestOf(data, index);
  change(request as Mutable);
  const guest = index === 0 ? new Guest(policy) : started();
  return guest.refusal("CreateContainerRequest", wrapped(request));
}

const set =
  (path: string, value: JsonValue) =>
  (request: Mutable): void => {
    const steps = path.split("/");
    const last = steps.pop() ?? "";
    let node = request;
    for (const step of steps) node = node[step as never] as Mutable;
    (node as Record<string, JsonValue>)[last] = value;
  };

describe("CreateContainer of an honest host", () => {
  it("is allowed for each container, wrapped and bare, without a word", () => {
    for (const wrap of [wrapped, (request: JsonObject) => request]) {
      const guest = new Guest(policy);
      for (const index of data.containers.keys()) expect(guest.refusal("CreateContainerRequest", wrap(requestOf(data, index)))).toBeUndefined();
    }
  });

  it("is allowed with the variables that Kubernetes and workload identity add", () => {
    for (const variable of [
      "KUBERNETES_SERVICE_HOST=10.0.0.1",
      "KUBERNETES_SERVICE_PORT=443",
      "KUBERNETES_SERVICE_PORT_HTTPS=443",
      "KUBERNETES_PORT=tcp://10.0.0.1:443",
      "KUBERNETES_PORT_443_TCP=tcp://10.0.0.1:443",
      "KUBERNETES_PORT_443_TCP_PROTO=tcp",
      "KUBERNETES_PORT_443_TCP_PORT=443",
      "KUBERNETES_PORT_443_TCP_ADDR=10.0.0.1",
      "AZURE_CLIENT_ID=01234567-89ab-cdef-0123-456789abcdef",
      "AZURE_TENANT_ID=",
      "AZURE_FEDERATED_TOKEN_FILE=/var/run/secrets/azure/tokens/azure-identity-token",
      "AZURE_AUTHORITY_HOST=https://login.microsoftonline.com/",
      "AZURE_AUTHORITY_HOST=https://login.sealpod.internal:8443/",
    ]) {
      expect(
        refusalAfter(1, (request) => request["OCI"]?.["Process"]?.["Env"]?.push(variable as never)),
        variable,
      ).toBeUndefined();
    }
  });

  it("is allowed with fewer mounts, other resources and what containerd adds", () => {
    expect(
      refusalAfter(1, (request) => {
        request["OCI"]?.["Mounts"]?.pop();
        set("OCI/Linux/Sysctl", { "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647" })(request);
        set("OCI/Linux/Resources/Memory", { Limit: 1 })(request);
        request["OCI"]?.["Linux"]?.["MaskedPaths"]?.push("/proc/more" as never);
        set("OCI/Process/OOMScoreAdj", -5)(request);
        set("OCI/Process/Rlimits", [{ Type: "RLIMIT_NOFILE", Hard: 1, Soft: 1 }])(request);
        set("OCI/Annotations/io.kubernetes.cri.sandbox-memory", "1")(request);
        set("OCI/Annotations/team", "shop")(request);
        set("storages/0/source", "02/01")(request);
        set("storages/1/source", "0001:00:01.0")(request);
      }),
    ).toBeUndefined();
  });
});

/** One change each; the reason must be exactly this. `[Sandbox]` marks changes of the pause container's request. */
const MUTATIONS: readonly (readonly [string, (request: Mutable) => void, string | RegExp])[] = [
  ["container id", set("container_id", "../x"), 'container_id: found "../x", policy allows ^[0-9a-f]{64}$'],
  ["OCI", set("OCI", null), "OCI is missing"],
  ["process", set("OCI/Process", null), "OCI.Process is missing"],
  ["user", set("OCI/Process/User", null), "OCI.Process.User is missing"],
  ["capabilities", set("OCI/Process/Capabilities", null), "OCI.Process.Capabilities is missing"],
  ["root", set("OCI/Root", null), "OCI.Root is missing"],
  ["linux", set("OCI/Linux", null), "OCI.Linux is missing"],
  [
    "sandbox name",
    set("OCI/Annotations/io.kubernetes.cri.sandbox-name", "other"),
    'annotation io.kubernetes.cri.sandbox-name: found "other", policy allows "web"',
  ],
  ["sandbox name, odd", set("OCI/Annotations/io.kubernetes.cri.sandbox-name", ".*"), /^annotation io\.kubernetes\.cri\.sandbox-name: found "\.\*"/],
  [
    "sandbox namespace",
    set("OCI/Annotations/io.kubernetes.cri.sandbox-namespace", "kube-system"),
    'annotation io.kubernetes.cri.sandbox-namespace: found "kube-system", policy allows "default"',
  ],
  ["sandbox id", set("OCI/Annotations/io.kubernetes.cri.sandbox-id", "11".repeat(32)), /^annotation io\.kubernetes\.cri\.sandbox-id: found "1111/],
  ["container name", set("OCI/Annotations/io.kubernetes.cri.container-name", "debug"), 'container "debug" of type "container" is not in the policy'],
  [
    "name of another container",
    set("OCI/Annotations/io.kubernetes.cri.container-name", "sidecar"),
    /^container "sidecar": process\.Terminal: found false, policy allows true$/,
  ],
  [
    "container type",
    set("OCI/Annotations/io.kubernetes.cri.container-type", "single_container"),
    'container "nginx" of type "single_container" is not in the policy',
  ],
  ["own annotation", set("OCI/Annotations/team", "evil"), 'container "nginx": annotation team: found "evil", policy allows "shop"'],
  [
    "own annotation that looks like a pattern",
    set("OCI/Annotations/io.katacontainers.config.x", "literal"),
    'container "nginx": annotation io.katacontainers.config.x: found "literal", policy allows "^literal$"',
  ],
  [
    "unknown annotation",
    set("OCI/Annotations/io.katacontainers.config.agent.kernel_modules", "evil"),
    'container "nginx": annotation io.katacontainers.config.agent.kernel_modules is not in the policy',
  ],
  [
    "bundle path",
    set("OCI/Annotations/io.katacontainers.pkg.oci.bundle_path", "/tmp"),
    /^container "nginx": annotation io\.katacontainers\.pkg\.oci\.bundle_path: found "\/tmp"/,
  ],
  [
    "kata container type",
    set("OCI/Annotations/io.katacontainers.pkg.oci.container_type", "pod_sandbox"),
    'container "nginx": annotation io.katacontainers.pkg.oci.container_type: found "pod_sandbox", policy allows "pod_container"',
  ],
  ["terminal", set("OCI/Process/Terminal", true), 'container "nginx": process.Terminal: found true, policy allows false'],
  ["argument", set("OCI/Process/Args/1", "-x"), 'container "nginx": process.Args[1]: found "-x", policy allows "/app/webapp.mjs"'],
  [
    "argument with a node's name",
    set("OCI/Process/Args/2", "--node=a b"),
    'container "nginx": process.Args[2]: found "--node=a b", policy allows "--node=$(node-name)"',
  ],
  ["argument with the pod's name", set("OCI/Process/Args/3", "other"), 'container "nginx": process.Args[3]: found "other", policy allows "$(sandbox-name)"'],
  [
    "more arguments",
    (request) => request["OCI"]?.["Process"]?.["Args"]?.push("x" as never),
    /^container "nginx": process\.Args: found \[.*"x"\], policy allows \[/,
  ],
  ["fewer arguments", (request) => request["OCI"]?.["Process"]?.["Args"]?.pop(), /^container "nginx": process\.Args: found \[/],
  ["variable", (request) => request["OCI"]?.["Process"]?.["Env"]?.push("FOO=bar" as never), 'container "nginx": env "FOO=bar" is not allowed'],
  ["LD_PRELOAD", (request) => request["OCI"]?.["Process"]?.["Env"]?.push("LD_PRELOAD=/x" as never), 'container "nginx": env "LD_PRELOAD=/x" is not allowed'],
  ["the image's value of an overridden variable", replaceEnv("PATH=/opt/bin", "PATH=/bin"), 'container "nginx": env "PATH=/bin" is not allowed'],
  ["value of a variable", replaceEnv("LEVEL=high", "LEVEL=low"), 'container "nginx": env "LEVEL=low" is not allowed'],
  ["variable left out", (request) => filterEnv(request, (variable) => variable !== "LEVEL=high"), 'container "nginx": env "LEVEL=high" is missing'],
  ["variable of the image left out", (request) => filterEnv(request, (variable) => variable !== "NGINX=1"), 'container "nginx": env "NGINX=1" is missing'],
  [
    "variable twice",
    (request) => request["OCI"]?.["Process"]?.["Env"]?.push("IP=10.9.9.9" as never),
    /^container "nginx": number of names in process\.Env: found \d+, policy allows \d+$/,
  ],
  ["node name with a line break", replaceEnv("NODE=node-7.example", "NODE=a\nb"), 'container "nginx": env "NODE=a\\nb" is not allowed'],
  ["pod uid", replaceEnv("UID=01234567-89ab-cdef-0123-456789abcdef", "UID=x"), 'container "nginx": env "UID=x" is not allowed'],
  ["address", replaceEnv("IP=10.1.2.3", "IP=10.1.2.256"), 'container "nginx": env "IP=10.1.2.256" is not allowed'],
  [
    "plain text around an address",
    replaceEnv("URL=http://10.1.2.3:80/a.b", "URL=http://10.1.2.3:80/aXb"),
    'container "nginx": env "URL=http://10.1.2.3:80/aXb" is not allowed',
  ],
  ["resource field", replaceEnv("LIMIT=536870912", "LIMIT=x"), 'container "nginx": env "LIMIT=x" is not allowed'],
  ["host name", replaceEnv("HOSTNAME=web-0", "HOSTNAME=a b"), 'container "nginx": env "HOSTNAME=a b" is not allowed'],
  [
    "authority",
    (request) => request["OCI"]?.["Process"]?.["Env"]?.push("AZURE_AUTHORITY_HOST=https://login.microsoftonline.com.evil/" as never),
    /env "AZURE_AUTHORITY_HOST=.*" is not allowed$/,
  ],
  ["variable without value", (request) => request["OCI"]?.["Process"]?.["Env"]?.push("LEVEL" as never), 'container "nginx": env "LEVEL" is not allowed'],
  ["working directory", set("OCI/Process/Cwd", "/"), 'container "nginx": process.Cwd: found "/", policy allows "/srv"'],
  ["no new privileges", set("OCI/Process/NoNewPrivileges", true), 'container "nginx": process.NoNewPrivileges: found true, policy allows false'],
  ["uid", set("OCI/Process/User/UID", 0), 'container "nginx": process.User.UID: found 0, policy allows 101'],
  ["user name", set("OCI/Process/User/Username", "root"), 'container "nginx": process.User.Username: found "root", policy allows nothing'],
  ["SELinux label", set("OCI/Process/SelinuxLabel", "x"), 'container "nginx": process.SelinuxLabel: found "x", policy allows nothing'],
  [
    "capability",
    set("OCI/Process/Capabilities/Bounding", ["CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN"]),
    'container "nginx": process.Capabilities.Bounding: found ["CAP_NET_BIND_SERVICE","CAP_SYS_ADMIN"], policy allows ["CAP_NET_BIND_SERVICE"]',
  ],
  ["effective capability", set("OCI/Process/Capabilities/Effective", []), /^container "nginx": process\.Capabilities\.Effective: found \[\]/],
  ["permitted capability", set("OCI/Process/Capabilities/Permitted", ["CAP_KILL"]), /^container "nginx": process\.Capabilities\.Permitted: found/],
  [
    "inheritable capability",
    set("OCI/Process/Capabilities/Inheritable", ["CAP_NET_BIND_SERVICE"]),
    /^container "nginx": process\.Capabilities\.Inheritable: found/,
  ],
  ["ambient capability", set("OCI/Process/Capabilities/Ambient", ["CAP_NET_BIND_SERVICE"]), /^container "nginx": process\.Capabilities\.Ambient: found/],
  [
    "storage more",
    (request) => request["storages"]?.push(structuredClone(request["storages"][0]) as never),
    'container "nginx": number of storages: found 6, policy allows 5',
  ],
  ["storage fewer", (request) => request["storages"]?.shift(), 'container "nginx": number of storages: found 4, policy allows 5'],
  [
    "layer in place of another",
    (request) => set("storages/1", structuredClone(request["storages"]?.[0]) as JsonValue)(request),
    /^container "nginx": layer 1: no storage at "\/run\/kata-containers\/sandbox\/layers\/[0-9a-f]{64}"$/,
  ],
  [
    "layer in place of the overlay",
    (request) => set("storages/2", structuredClone(request["storages"]?.[0]) as JsonValue)(request),
    /^container "nginx": overlay: no storage at/,
  ],
  [
    "root hash",
    set("storages/1/options/3", `io.katacontainers.fs-opt.root-hash=${"00".repeat(32)}`),
    new RegExp(`^container "nginx": layer 1: root hash: found "(?:00){32}", policy allows "${ROOT_HASHES[0]}"$`),
  ],
  ["root hash without its name", set("storages/1/options/3", ROOT_HASHES[0] ?? ""), /^container "nginx": layer 1: options: found \["ro",/],
  ["layer read-write", set("storages/0/options/0", "rw"), /^container "nginx": layer 0: options: found \["rw",/],
  ["layer without verity", set("storages/0/options", ["ro"]), 'container "nginx": layer 0: options: found ["ro"], policy allows ' /* … */],
  ["layer driver", set("storages/0/driver", "local"), 'container "nginx": layer 0: driver: found "local", policy allows "blk"'],
  ["layer file system", set("storages/0/fstype", "ext4"), 'container "nginx": layer 0: fstype: found "ext4", policy allows "tar"'],
  ["layer source", set("storages/0/source", "/dev/sda"), /^container "nginx": layer 0: source: found "\/dev\/sda", policy allows \^/],
  ["layer driver options", set("storages/0/driver_options", ["x"]), 'container "nginx": layer 0: driver_options: found ["x"], policy allows nothing'],
  ["layer group", set("storages/0/fs_group", { group_id: 1, group_change_policy: 0 }), /^container "nginx": layer 0: fs_group: found/],
  ["layer shared", set("storages/0/shared", true), 'container "nginx": layer 0: shared: found true, policy allows false'],
  [
    "layer of another image",
    set("storages/0/mount_point", `/run/kata-containers/sandbox/layers/${"00".repeat(32)}`),
    /^container "nginx": layer at "\/run\/kata-containers\/sandbox\/layers\/0000.* is not in the policy$/,
  ],
  ["overlay options", set("storages/2/options/4", "lowerdir=x"), /^container "nginx": overlay: options: found/],
  ["overlay source", set("storages/2/source", "/x"), 'container "nginx": overlay: source: found "/x", policy allows "none"'],
  ["overlay driver", set("storages/2/driver", "blk"), 'container "nginx": overlay: driver: found "blk", policy allows "overlayfs"'],
  ["overlay file system", set("storages/2/fstype", "overlay"), 'container "nginx": overlay: fstype: found "overlay", policy allows "fuse3.kata-overlay"'],
  ["overlay elsewhere", set("storages/2/mount_point", "/run/x"), 'container "nginx": storage at "/run/x" is not in the policy'],
  ["volume driver", set("storages/3/driver", "blk"), /^container "nginx": storage at ".*\/local\/scratch": driver: found "blk", policy allows "local"$/],
  ["volume source", set("storages/3/source", "/etc"), /: source: found "\/etc", policy allows "local"$/],
  ["volume options", set("storages/3/options", []), /: options: found \[\], policy allows \["mode=0777"\]$/],
  ["volume elsewhere", set("storages/3/mount_point", "/usr/local/bin"), 'container "nginx": storage at "/usr/local/bin" is not in the policy'],
  [
    "volume of another name",
    set("storages/4/mount_point", "/run/kata-containers/sandbox/ephemeral/memory2"),
    /^container "nginx": storage at ".*memory2" is not in the policy$/,
  ],
  ["root path", set("OCI/Root/Path", "/"), /^container "nginx": root\.Path: found "\/", policy allows "\/run\/kata-containers\/shared\/containers\/c0c0/],
  ["root read-only", set("OCI/Root/Readonly", true), 'container "nginx": root.Readonly: found true, policy allows false'],
  [
    "mount",
    (request) => request["OCI"]?.["Mounts"]?.push({ destination: "/host", source: "/", type_: "bind", options: ["rbind"] } as never),
    'container "nginx": mount at "/host" is not in the policy',
  ],
  [
    "mount source",
    setMount("/scratch", "source", "/etc"),
    /^container "nginx": mount at "\/scratch": source: found "\/etc", policy allows "\^\$\(cpath\)\/\$\(sandbox-id\)\/local\/scratch\$"$/,
  ],
  [
    "mount source of another container",
    setMount("/etc/hosts", "source", `/run/kata-containers/shared/containers/${"11".repeat(32)}-0123456789abcdef-hosts`),
    /^container "nginx": mount at "\/etc\/hosts": source: found/,
  ],
  [
    "plain mount source taken for a pattern",
    setMount("/proc", "source", "proc/x"),
    /^container "nginx": mount at "\/proc": source: found "proc\/x", policy allows "proc"$/,
  ],
  ["mount type", setMount("/proc", "type_", "bind"), 'container "nginx": mount at "/proc": type: found "bind", policy allows "proc"'],
  [
    "mount options",
    setMount("/etc/app", "options", ["rbind", "rprivate", "rw"]),
    'container "nginx": mount at "/etc/app": options: found ["rbind","rprivate","rw"], policy allows ["rbind","rprivate","ro"]',
  ],
  [
    "mount twice",
    (request) => request["OCI"]?.["Mounts"]?.push(structuredClone(request["OCI"]["Mounts"][0]) as never),
    /^container "nginx": number of mount destinations: found \d+, policy allows \d+$/,
  ],
  [
    "network namespace",
    (request) => request["OCI"]?.["Linux"]?.["Namespaces"]?.push({ Type: "network", Path: "" } as never),
    /^container "nginx": linux\.Namespaces: found/,
  ],
  ["namespace path", set("OCI/Linux/Namespaces/0/Path", "/proc/1/ns/ipc"), /^container "nginx": linux\.Namespaces: found .*"\/proc\/1\/ns\/ipc"/],
  ["namespace fewer", (request) => request["OCI"]?.["Linux"]?.["Namespaces"]?.pop(), /^container "nginx": linux\.Namespaces: found/],
  ["masked path", (request) => request["OCI"]?.["Linux"]?.["MaskedPaths"]?.shift(), 'container "nginx": linux.MaskedPaths: "/proc/acpi" is missing'],
  ["read-only path", (request) => request["OCI"]?.["Linux"]?.["ReadonlyPaths"]?.shift(), 'container "nginx": linux.ReadonlyPaths: "/proc/asound" is missing'],
  ["sysctl", set("OCI/Linux/Sysctl/kernel.core_pattern", "|/x"), 'container "nginx": linux.Sysctl kernel.core_pattern="|/x" is not allowed'],
  ["shared pid namespace", set("sandbox_pidns", true), 'container "nginx": sandbox_pidns: found true, policy allows false'],
  ["version", set("OCI/Version", "1.0.0"), 'container "nginx": OCI.Version: found "1.0.0", policy allows "1.1.0-rc.1"'],
  ...(
    [
      ["devices", [{ id: "", type_: "blk", vm_path: "", container_path: "/dev/x", options: [] }]],
      ["shared_mounts", [{ name: "x" }]],
      ["string_user", { uid: "0", gid: "0", additionalGids: [] }],
      ["OCI/Hooks", { Prestart: [] }],
      ["OCI/Solaris", { dummy: "" }],
      ["OCI/Windows", { dummy: "" }],
      ["OCI/Linux/Devices", [{ Path: "/dev/kmsg" }]],
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
  ).map(([path, value]): readonly [string, (request: Mutable) => void, RegExp] => [
    path,
    set(path, value as JsonValue),
    new RegExp(`^container "nginx": ${path.replaceAll("/", "\\.")}: found .*, policy allows nothing$`),
  ]),
];

function replaceEnv(from: string, to: string): (request: Mutable) => void {
  return (request) => {
    const env = request["OCI"]?.["Process"]?.["Env"] as unknown as string[];
    const at = env.indexOf(from);
    expect(at, from).toBeGreaterThanOrEqual(0);
    env[at] = to;
  };
}

function filterEnv(request: Mutable, keep: (variable: string) => boolean): void {
  const env = request["OCI"]?.["Process"]?.["Env"] as unknown as string[];
  set(
    "OCI/Process/Env",
    env.filter((variable) => keep(variable)),
  )(request);
}

function setMount(destination: string, field: string, value: JsonValue): (request: Mutable) => void {
  return (request) => {
    const mounts = request["OCI"]?.["Mounts"] as unknown as Record<string, JsonValue>[];
    const mount = mounts.find((item) => item["destination"] === destination);
    if (mount === undefined) throw new Error(`no mount ${destination}`);
    mount[field] = value;
  };
}

describe("CreateContainer after one change", () => {
  for (const [name, change, reason] of MUTATIONS) {
    it(`is refused: ${name}`, () => {
      const refusal = refusalAfter(1, change);
      expect(refusal, "must be refused").toBeDefined();
      expect(refusal?.split("\n").length, `one reason, got:\n${refusal}`).toBe(1);
      if (typeof reason === "string" && reason.endsWith("policy allows ")) expect(refusal).toContain(reason);
      else if (typeof reason === "string") expect(refusal).toBe(reason);
      else expect(refusal).toMatch(reason);
    });
  }

  it("is refused for every field whose removal or change of type leaves something unchecked", () => {
    // Fail closed: with any one of the compared fields missing, the request is refused, reason or not.
    const free =
      /^\/(?:exec_id|std(?:in|out|err)_port|devices|shared_mounts|string_user)|^\/OCI\/(?:Hostname|Hooks|Solaris|Windows)|Rlimits|OOMScoreAdj|ApparmorProfile|ConsoleSize|GID|AdditionalGids|Resources|CgroupsPath|Mappings|IntelRdt|Seccomp|RootfsPropagation|MountLabel|\/Linux\/Devices|\/shared$|Annotations\/(?!io\.kubernetes\.cri\.(?:container-|sandbox-(?:id|name$|namespace)))/;
    const paths = leavesOf(requestOf(data, 1));
    expect(paths.length).toBeGreaterThan(150);
    for (const path of paths) {
      if (free.test(path.replaceAll("\0", "/"))) continue;
      const refusal = refusalAfter(1, (request) => {
        const steps = path.slice(1).split("\0");
        const last = steps.pop() ?? "";
        let node = request;
        for (const step of steps) node = node[step as never] as Mutable;
        if (Array.isArray(node)) node[Number(last)] = null as never;
        else delete (node as Record<string, JsonValue>)[last];
      });
      expect(refusal, path.replaceAll("\0", "/")).toBeDefined();
    }
  });
});

describe("CreateContainer with a value of another type where a collection belongs", () => {
  for (const path of [
    "storages",
    "storages/0/options",
    "OCI/Annotations",
    "OCI/Mounts",
    "OCI/Mounts/0/options",
    "OCI/Process/Args",
    "OCI/Process/Env",
    "OCI/Process/Capabilities/Bounding",
    "OCI/Process/Capabilities/Inheritable",
    "OCI/Linux/Namespaces",
    "OCI/Linux/MaskedPaths",
    "OCI/Linux/ReadonlyPaths",
    "OCI/Linux/Sysctl",
  ]) {
    it(`is refused: ${path}`, () => {
      for (const value of [null, true, 5, "x", [[]], { x: {} }] as const) expect(refusalAfter(1, set(path, value)), JSON.stringify(value)).toBeDefined();
    });
  }
});

/** Paths of all leaves and empty collections; steps are separated by NUL, shown with `/`. */
function leavesOf(value: JsonValue, path = ""): readonly string[] {
  if (typeof value !== "object" || value === null) return [path];
  const entries = Object.entries(value as JsonObject);
  if (entries.length === 0) return [];
  const separator = path === "" ? "/" : "\0";
  return entries.flatMap(([name, item]) => leavesOf(item, `${path}${separator}${name}`));
}

describe("the pause container", () => {
  for (const [name, change, reason] of [
    ["arguments", set("OCI/Process/Args", ["/bin/sh"]), 'container "pause": process.Args[0]: found "/bin/sh", policy allows "/pause"'],
    ["user", set("OCI/Process/User/UID", 0), 'container "pause": process.User.UID: found 0, policy allows 65535'],
    [
      "log directory",
      set("OCI/Annotations/io.kubernetes.cri.sandbox-log-directory", "/etc"),
      /^container "pause": annotation io\.kubernetes\.cri\.sandbox-log-directory: found "\/etc"/,
    ],
    [
      "sandbox name",
      set("OCI/Annotations/io.kubernetes.cri.sandbox-name", "other"),
      'container "pause": annotation io.kubernetes.cri.sandbox-name: found "other", policy allows "web"',
    ],
    [
      "sandbox namespace",
      set("OCI/Annotations/io.kubernetes.cri.sandbox-namespace", "other"),
      'container "pause": annotation io.kubernetes.cri.sandbox-namespace: found "other", policy allows "default"',
    ],
  ] as const) {
    it(`is refused after a change of its ${name}`, () => {
      const refusal = refusalAfter(0, change);
      if (typeof reason === "string") expect(refusal).toBe(reason);
      else expect(refusal).toMatch(reason);
    });
  }

  it("takes a network namespace of the CNI alone", () => {
    const refusal = refusalAfter(0, (request) => {
      Object.assign(request["OCI"]?.["Annotations"] ?? {}, { "nerdctl/network-namespace": "/proc/1/ns/net" });
    });
    expect(refusal).toMatch(/^container "pause": annotation nerdctl\/network-namespace: found "\/proc\/1\/ns\/net"/);
  });
});

describe("state", () => {
  it("lets each container exist once at a time", () => {
    const guest = started();
    const request = requestOf(data, 1);
    expect(guest.refusal("CreateContainerRequest", wrapped(request))).toBeUndefined();
    expect(guest.refusal("CreateContainerRequest", wrapped(request))).toBe(`container "nginx": container_id "${idOf(request)}" exists already`);
    const second = requestWithId("dd".repeat(32));
    expect(guest.refusal("CreateContainerRequest", wrapped(second))).toBe(`container "nginx": exists already with id "${idOf(request)}"`);
    expect(guest.refusal("RemoveContainerRequest", { container_id: request["container_id"] ?? "", timeout: 0 })).toBeUndefined();
    expect(guest.refusal("CreateContainerRequest", wrapped(second))).toBeUndefined();
  });

  it("allows the removal of what does not exist, which the agent refuses by itself, and changes nothing", () => {
    const guest = started();
    for (const id of ["sandbox", "containers", "../sandbox", "ee".repeat(32)])
      expect(guest.refusal("RemoveContainerRequest", { container_id: id, timeout: 0 })).toBeUndefined();
    expect(refusalOfSecondPause(guest)).toMatch(/exists already/);
  });

  it("keeps a denied request from changing it", () => {
    const guest = new Guest(policy);
    const bad = requestOf(data, 0) as Mutable;
    set("OCI/Process/Cwd", "/x")(bad);
    expect(guest.refusal("CreateContainerRequest", wrapped(bad))).toBeDefined();
    const other = requestOf(data, 0) as Mutable;
    set("OCI/Annotations/io.kubernetes.cri.sandbox-id", "11".repeat(32))(other);
    expect(guest.refusal("CreateContainerRequest", wrapped(other))).toBeUndefined();
  });

  it("lets a sandbox be made before its containers only", () => {
    const sandbox = sandboxRequest();
    const guest = new Guest(policy);
    expect(guest.refusal("CreateSandboxRequest", sandbox)).toBeUndefined();
    expect(guest.refusal("CreateContainerRequest", wrapped(requestOf(data, 0)))).toBeUndefined();
    expect(guest.refusal("CreateSandboxRequest", sandbox)).toBe("the sandbox exists already");
  });

  function refusalOfSecondPause(guest: Guest): string | undefined {
    return guest.refusal("CreateContainerRequest", wrapped(requestOf(data, 0)));
  }
});

function idOf(request: JsonObject): string {
  const id = request["container_id"];
  return typeof id === "string" ? id : "";
}

function requestWithId(id: string): JsonObject {
  const before = requestOf(data, 1);
  return JSON.parse(JSON.stringify(before).replaceAll(idOf(before), id)) as JsonObject;
}

function sandboxRequest(): JsonObject {
  const shm = {
    driver: "ephemeral",
    driver_options: [],
    source: "shm",
    fstype: "tmpfs",
    options: ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
    mount_point: "/run/kata-containers/sandbox/shm",
    fs_group: null,
    shared: false,
  };
  return {
    hostname: "web",
    dns: ["nameserver 10.0.0.10"],
    storages: [shm],
    sandbox_pidns: false,
    sandbox_id: SANDBOX_ID,
    guest_hook_path: "",
    kernel_modules: [],
  };
}

describe("CreateSandbox", () => {
  for (const [name, change, reason] of [
    ["hooks", set("guest_hook_path", "/x"), 'sandbox: guest_hook_path: found "/x", policy allows nothing'],
    ["kernel modules", set("kernel_modules", [{ name: "x", parameters: [] }]), /^sandbox: kernel_modules: found/],
    ["shared pid namespace", set("sandbox_pidns", true), "sandbox: sandbox_pidns: found true, policy allows false"],
    ["storage", set("storages/0/mount_point", "/etc"), 'sandbox: storage at "/etc" is not in the policy'],
    ["storage source", set("storages/0/source", "kataShared"), 'sandbox: storage at "/run/kata-containers/sandbox/shm" is not in the policy'],
    ["storage options", set("storages/0/options/0", "exec"), /is not in the policy$/],
    ["storage shared", set("storages/0/shared", true), /is not in the policy$/],
  ] as const) {
    it(`is refused with ${name}`, () => {
      const request = structuredClone(sandboxRequest()) as Mutable;
      change(request);
      const refusal = new Guest(policy).refusal("CreateSandboxRequest", request);
      if (typeof reason === "string") expect(refusal).toBe(reason);
      else expect(refusal).toMatch(reason);
    });
  }
});

describe("ExecProcess", () => {
  const exec = (args: readonly string[], more: (request: Mutable) => void = () => undefined): JsonObject => {
    const container = requestOf(data, 1) as Mutable;
    const process = container["OCI"]?.["Process"] as Mutable;
    const request = {
      container_id: container["container_id"],
      exec_id: "e1",
      string_user: null,
      process: { ...(process as JsonObject), Args: args, Capabilities: null, Terminal: false },
      stdin_port: 0,
      stdout_port: 0,
      stderr_port: 0,
    } as unknown as Mutable;
    more(request);
    return request as unknown as JsonObject;
  };
  const refusal = (request: JsonObject): string | undefined => {
    const guest = started();
    expect(guest.refusal("CreateContainerRequest", wrapped(requestOf(data, 1)))).toBeUndefined();
    expect(guest.refusal("CreateContainerRequest", wrapped(requestOf(data, 2)))).toBeUndefined();
    return guest.refusal("ExecProcessRequest", request);
  };

  it("is allowed for the probes of the container's own YAML", () => expect(refusal(exec(["cat", "/healthy"]))).toBeUndefined());
  it("is refused for anything else", () => {
    expect(refusal(exec(["sh"]))).toBe('exec of ["sh"] is not allowed in "nginx"');
    expect(refusal(exec(["cat", "/healthy", ""]))).toBe('exec of ["cat","/healthy",""] is not allowed in "nginx"');
    expect(refusal(exec([]))).toBe('exec of [] is not allowed in "nginx"');
  });
  it("is refused in another container of the pod", () => {
    expect(refusal(exec(["cat", "/healthy"], set("container_id", requestOf(data, 2)["container_id"] ?? "")))).toBe(
      'exec of ["cat","/healthy"] is not allowed in "sidecar"',
    );
    expect(refusal(exec(["cat", "/healthy"], set("container_id", CONTAINER_ID)))).toBe(`exec: container "${CONTAINER_ID}" does not exist`);
  });
  for (const [path, value, reason] of [
    ["process/User/UID", 0, 'exec in "nginx": process.User.UID: found 0, policy allows 101'],
    ["process/Cwd", "/", 'exec in "nginx": process.Cwd: found "/", policy allows "/srv"'],
    ["process/NoNewPrivileges", true, 'exec in "nginx": process.NoNewPrivileges: found true, policy allows false'],
    ["process/Capabilities", { Bounding: [] }, /process\.Capabilities: found/],
    ["process/Env/0", "LD_PRELOAD=/x", 'exec in "nginx": env "LD_PRELOAD=/x" is not allowed'],
    ["process/SelinuxLabel", "x", /process\.SelinuxLabel: found "x"/],
    ["process/ApparmorProfile", "x", /process\.ApparmorProfile: found "x"/],
    ["string_user", { uid: "0" }, /string_user: found/],
    ["process", null, "process is missing"],
  ] as const) {
    it(`is refused with another ${path}`, () => {
      const found = refusal(exec(["cat", "/healthy"], set(path, value as JsonValue)));
      if (typeof reason === "string") expect(found).toBe(reason);
      else expect(found).toMatch(reason);
    });
  }
  it("takes TERM with a terminal alone", () => {
    const term = (request: Mutable): void => void request["process"]?.["Env"]?.push("TERM=xterm" as never);
    expect(refusal(exec(["cat", "/healthy"], term))).toBe('exec in "nginx": env "TERM=xterm" is not allowed');
    expect(refusal(exec(["cat", "/healthy"], (request) => [term(request), set("process/Terminal", true)(request)]))).toBeUndefined();
  });
  it("is decided by the settings' commands and patterns too", async () => {
    const settings = JSON.parse(SETTINGS) as { request_defaults: { ExecProcessRequest: { commands: string[]; regex: string[] } } };
    settings.request_defaults.ExecProcessRequest = { commands: ["id -u"], regex: ["^ls [a-z]+$"] };
    const [own] = await policiesOf(POD, IMAGES, { settings: JSON.stringify(settings), rules: RULES });
    const guest = new Guest(own?.policy ?? "");
    for (const index of [0, 1]) expect(guest.refusal("CreateContainerRequest", wrapped(requestOf(data, index)))).toBeUndefined();
    expect(guest.refusal("ExecProcessRequest", exec(["id", "-u"]))).toBeUndefined();
    expect(guest.refusal("ExecProcessRequest", exec(["ls", "tmp"]))).toBeUndefined();
    expect(guest.refusal("ExecProcessRequest", exec(["ls", "/tmp"]))).toBeDefined();
  });
});

describe("CopyFile", () => {
  const base = `/run/kata-containers/shared/containers/${CONTAINER_ID}-0123456789abcdef-`;
  const copy = (path: string, link = ""): JsonObject => ({
    path,
    file_size: 1,
    file_mode: link === "" ? 0o100644 : 0o120777,
    dir_mode: 0o755,
    uid: 0,
    gid: 0,
    offset: 0,
    symlink_src: link,
  });
  for (const [request, reason] of [
    [copy(`${base}hosts`), undefined],
    [copy(`${base}app/..2024_01_01/key`), undefined],
    [copy(`${base}app/..data`, "..2024_01_01"), undefined],
    [copy(`${base}app/key`, "..data/key"), undefined],
    [copy(`${base}app/../../../etc/passwd`), /^copied file: ".*" leaves its directory$/],
    [copy(`${base}..`), undefined],
    [copy("/etc/passwd"), 'copied file: path "/etc/passwd" is not allowed'],
    [copy("/x/run/kata-containers/shared/containers/"), /is not allowed$/],
    [copy("/run/kata-containers/shared/containers/short-0123456789abcdef-hosts"), /is not allowed$/],
    [copy(`${base}hosts`, "x"), /^copied file: path ".*-hosts" is not allowed$/],
    [copy(`${base}app/key`, "/etc/passwd"), 'copied link: target "/etc/passwd" is absolute'],
    [copy(`${base}app/key`, "../../x"), 'copied link: "../../x" leaves its directory'],
    [copy(`${base}app/key`, "a/.."), 'copied link: "a/.." leaves its directory'],
  ] as const) {
    it(`${reason === undefined ? "allows" : "refuses"} ${encodeJson([request["path"] ?? "", request["symlink_src"] ?? ""])}`, () => {
      const found = new Guest(policy).refusal("CopyFileRequest", request);
      if (reason === undefined) expect(found).toBeUndefined();
      else if (typeof reason === "string") expect(found).toBe(reason);
      else expect(found).toMatch(reason);
    });
  }
});

describe("network", () => {
  const iface = { device: "eth0", name: "eth0", IPAddresses: [], mtu: 1500, hwAddr: "02:00:00:00:00:01", devicePath: "", type_: "", raw_flags: 0 };
  const route = { dest: "", gateway: "10.0.0.1", device: "eth0", source: "", scope: 0, family: 0, flags: 0, mtu: 0 };
  it("takes ordinary interfaces and routes", () => {
    const guest = new Guest(policy);
    expect(guest.refusal("UpdateInterfaceRequest", { interface: iface })).toBeUndefined();
    expect(guest.refusal("UpdateInterfaceRequest", { interface: { ...iface, raw_flags: 128 } })).toBeUndefined();
    expect(guest.refusal("UpdateRoutesRequest", { routes: { Routes: [route, { ...route, source: "10.0.0.2" }] } })).toBeUndefined();
  });
  it("keeps the loopback out of the host's hands", () => {
    const guest = new Guest(policy);
    expect(guest.refusal("UpdateInterfaceRequest", { interface: { ...iface, name: "lo" } })).toBe('interface: name "lo" is not allowed');
    expect(guest.refusal("UpdateInterfaceRequest", { interface: { ...iface, hwAddr: "00:00:00:00:00:00" } })).toMatch(/^interface: hwAddr/);
    expect(guest.refusal("UpdateInterfaceRequest", { interface: { ...iface, raw_flags: 256 } })).toBe("interface: raw_flags: found 256, policy allows [0,128]");
    expect(guest.refusal("UpdateInterfaceRequest", { interface: null })).toBe("interface is missing");
    expect(guest.refusal("UpdateRoutesRequest", { routes: { Routes: [{ ...route, device: "lo" }] } })).toBe('route: device "lo" is not allowed');
    for (const source of ["127.0.0.1", "127.8.0.0/16", "::1", "::1/128", "0:0:0:0:0:0:0:1", "0000:0000:0000:0000:0000:0000:0000:0001", "::ffff:127.0.0.1"]) {
      expect(guest.refusal("UpdateRoutesRequest", { routes: { Routes: [{ ...route, source }] } }), source).toBe(`route: source "${source}" is not allowed`);
    }
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
    "StartContainer",
    "StatsContainer",
    "TtyWinResize",
    "WaitProcess",
    "ReadStream",
  ];
  const REFUSED = [
    "AddARPNeighbors",
    "AddSwap",
    "AddSwapPath",
    "GetDiagnosticData",
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
    for (const name of ALLOWED) expect(new Guest(policy).refusal(`${name}Request`, {}), name).toBeUndefined();
  });
  it("refuses the rest", () => {
    for (const name of REFUSED) expect(new Guest(policy).refusal(`${name}Request`, {}), name).toBe("");
    for (const name of ["MemAgentMemcgConfig", "MemAgentCompactConfig"]) expect(new Guest(policy).refusal(name, {})).toBe("");
    expect(new Guest(policy).refusal("SetPolicyRequest", { policy: "x" })).toBe("the policy cannot be replaced");
    expect(new Guest(policy).refusal("WriteStreamRequest", {})).toBe(
      "writing to a container's input is not allowed (request_defaults.WriteStreamRequest is false)",
    );
    expect(new Guest(policy).refusal("CloseStdinRequest", {})).toBe(
      "closing a container's input is not allowed (request_defaults.WriteStreamRequest is false)",
    );
    expect(new Guest(policy).refusal("UpdateEphemeralMountsRequest", {})).toMatch(/^resizing ephemeral mounts is not allowed/);
  });
  it("never lets failing requests through", () => expect(new Guest(policy).allowFailures()).toBe(false));
  it("refuses every guarded request that is empty", () => {
    for (const name of ["CreateContainer", "CreateSandbox", "ExecProcess", "CopyFile", "UpdateInterface", "UpdateRoutes"]) {
      for (const input of [{}, null, [], "x", { base: null }, { base: {} }] as const)
        expect(new Guest(policy).refusal(`${name}Request`, input), `${name} ${JSON.stringify(input)}`).toBeDefined();
    }
  });
});
