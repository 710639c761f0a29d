import { parseJson } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { SandboxError } from "./index.ts";
import { constrainSpec, execProcess } from "./spec.ts";

const CONTEXT = { bundle: "/run/containerd/io.containerd.runtime.v2.task/k8s.io/c1", rootPath: "/run/kata-containers/shared/containers/c1" };

/** What containerd 1.7 writes for a container, shortened, with more of the host in it than usual. */
const CONTAINERD = `{
  "ociVersion": "1.1.0-rc.1",
  "process": {
    "user": { "uid": 1000, "gid": 1001, "additionalGids": [1001, 27] },
    "args": ["/bin/server", "--port", "80"],
    "env": ["PATH=/bin", "HOSTNAME=pod"],
    "cwd": "/srv",
    "capabilities": { "bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"] },
    "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 18446744073709551615, "soft": 1024 }],
    "noNewPrivileges": true,
    "apparmorProfile": "cri-containerd.apparmor.d",
    "selinuxLabel": "system_u:system_r:container_t:s0",
    "oomScoreAdj": -997
  },
  "root": { "path": "rootfs", "readonly": true },
  "hostname": "pod",
  "mounts": [
    { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
    { "destination": "/etc/hosts", "type": "bind", "source": "/var/lib/kubelet/pods/p/etc-hosts", "options": ["rbind", "rprivate", "rw"] }
  ],
  "hooks": { "prestart": [{ "path": "/bin/evil" }] },
  "annotations": {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.container-name": "server",
    "io.katacontainers.config.agent.policy": "cGFja2FnZQ==",
    "io.katacontainers.config.hypervisor.cc_init_data": "H4sI"
  },
  "linux": {
    "sysctl": { "net.ipv4.ip_unprivileged_port_start": "0" },
    "resources": {
      "devices": [{ "allow": false, "access": "rwm" }],
      "memory": { "limit": 134217728, "swap": 134217728 },
      "cpu": { "shares": 2, "quota": 50000, "period": 100000, "cpus": "0-3", "mems": "0" },
      "pids": { "limit": 100 },
      "blockIO": { "weight": 10 },
      "network": { "classID": 1 },
      "hugepageLimits": [{ "pageSize": "2MB", "limit": 0 }]
    },
    "cgroupsPath": "kubepods-burstable-podx.slice:cri-containerd:c1",
    "namespaces": [
      { "type": "pid" },
      { "type": "ipc", "path": "/proc/1/ns/ipc" },
      { "type": "uts", "path": "/proc/1/ns/uts" },
      { "type": "mount" },
      { "type": "network", "path": "/proc/1/ns/net" },
      { "type": "cgroup" }
    ],
    "devices": [{ "path": "/dev/kvm", "type": "c", "major": 10, "minor": 232 }],
    "seccomp": { "defaultAction": "SCMP_ACT_ERRNO" },
    "maskedPaths": ["/proc/acpi"],
    "readonlyPaths": ["/proc/bus"],
    "mountLabel": "system_u:object_r:container_file_t:s0"
  }
}`;

describe("specification for the guest, specs/runtime.md 4.2", () => {
  it("keeps what describes the container and takes out what belongs to the host", () => {
    const { spec, mounts, sandboxPidns } = constrainSpec(parseJson(CONTAINERD), CONTEXT);
    expect(spec).toEqual({
      Version: "1.1.0-rc.1",
      Process: {
        Terminal: false,
        User: { UID: 1000, GID: 1001, AdditionalGids: [1001, 27], Username: "" },
        Args: ["/bin/server", "--port", "80"],
        Env: ["PATH=/bin", "HOSTNAME=pod"],
        Cwd: "/srv",
        Capabilities: { Bounding: ["CAP_CHOWN"], Effective: ["CAP_CHOWN"], Inheritable: [], Permitted: ["CAP_CHOWN"], Ambient: [] },
        Rlimits: [{ Type: "RLIMIT_NOFILE", Hard: 2n ** 64n - 1n, Soft: 1024n }],
        NoNewPrivileges: true,
        OOMScoreAdj: -997n,
      },
      Root: { Path: "/run/kata-containers/shared/containers/c1", Readonly: true },
      Hostname: "pod",
      Annotations: {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": "server",
        "io.katacontainers.pkg.oci.bundle_path": "/run/containerd/io.containerd.runtime.v2.task/k8s.io/c1",
        "io.katacontainers.pkg.oci.container_type": "pod_container",
      },
      Linux: {
        UIDMappings: [],
        GIDMappings: [],
        Sysctl: { "net.ipv4.ip_unprivileged_port_start": "0" },
        CgroupsPath: "kubepods-burstable-podx.slice:cri-containerd:c1",
        Namespaces: [
          { Type: "ipc", Path: "" },
          { Type: "uts", Path: "" },
          { Type: "mount", Path: "" },
        ],
        RootfsPropagation: "",
        MaskedPaths: ["/proc/acpi"],
        ReadonlyPaths: ["/proc/bus"],
        Resources: {
          Memory: { Limit: 134217728n, Reservation: 0n, Swap: 134217728n, Kernel: 0n, KernelTCP: 0n, Swappiness: 0n, DisableOOMKiller: false },
          CPU: { Shares: 2n, Quota: 50000n, Period: 100000n, RealtimeRuntime: 0n, RealtimePeriod: 0n },
          HugepageLimits: [{ Pagesize: "2MB", Limit: 0n }],
        },
      },
    });
    expect(mounts).toEqual([
      { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
      { destination: "/etc/hosts", type: "bind", source: "/var/lib/kubelet/pods/p/etc-hosts", options: ["rbind", "rprivate", "rw"] },
    ]);
    expect(sandboxPidns).toBe(false);
  });

  const minimal = (change: object): unknown => ({ process: {}, linux: {}, ...change });

  it("sends a variable that image and pod have once, with the value that counts", () => {
    const process = { args: ["x"], env: ["A=image", "B=1", "A=pod", "=odd", "C"], cwd: "/" };
    expect(constrainSpec({ process, linux: {} }, CONTEXT).spec.Process?.Env).toEqual(["A=pod", "B=1", "=odd", "C"]);
  });

  it("takes out the propagation of the host's mounts, which the guest does not share", () => {
    const of = (rootfsPropagation: string): string | undefined =>
      constrainSpec({ process: { args: ["x"], cwd: "/" }, linux: { rootfsPropagation } }, CONTEXT).spec.Linux?.RootfsPropagation;
    expect(of("rslave")).toBe("");
    expect(of("rshared")).toBe("rshared");
  });

  it("asks for the pod's process namespace where containerd joins one", () => {
    const shared = minimal({ linux: { namespaces: [{ type: "mount" }, { type: "pid", path: "/proc/7/ns/pid" }] } });
    expect(constrainSpec(shared, CONTEXT)).toMatchObject({ sandboxPidns: true, spec: { Linux: { Namespaces: [{ Type: "mount", Path: "" }] } } });
  });

  it.each([
    ["sandbox", "pod_sandbox"],
    ["container", "pod_container"],
    [undefined, "single_container"],
  ])("names the type of container: %s", (type, expected) => {
    const annotations = type === undefined ? {} : { "io.kubernetes.cri.container-type": type };
    expect(constrainSpec(minimal({ annotations }), CONTEXT).spec.Annotations).toMatchObject({ "io.katacontainers.pkg.oci.container_type": expected });
  });

  it("does not let the pod's annotations choose what the shim says", () => {
    const annotations = { "io.katacontainers.pkg.oci.bundle_path": "/x", "io.katacontainers.pkg.oci.container_type": "pod_sandbox" };
    expect(constrainSpec(minimal({ annotations }), CONTEXT).spec.Annotations).toEqual({
      "io.katacontainers.pkg.oci.bundle_path": CONTEXT.bundle,
      "io.katacontainers.pkg.oci.container_type": "single_container",
    });
  });

  it.each([
    [null, "spec is null, expected an object"],
    [[], "spec is a list, expected an object"],
    [{}, "spec.process is missing"],
    [{ process: {} }, "spec.linux is missing"],
    [minimal({ process: { args: "ls" } }), 'spec.process.args is "ls", expected a list'],
    [minimal({ process: { args: [1] } }), "spec.process.args[0] is 1, expected a string"],
    [minimal({ process: { user: { uid: -1 } } }), "spec.process.user.uid is -1, expected an integer from 0 to 4294967295"],
    [minimal({ process: { user: { uid: 1.5 } } }), "spec.process.user.uid is 1.5, expected an integer from 0 to 4294967295"],
    [
      minimal({ process: { rlimits: [{ hard: 2 ** 64 }] } }),
      "spec.process.rlimits[0].hard is 18446744073709552000, expected an integer from 0 to 18446744073709551615",
    ],
    [minimal({ root: { readonly: "true" } }), 'spec.root.readonly is "true", expected true or false'],
    [minimal({ annotations: { a: 1 } }), "spec.annotations.a is 1, expected a string"],
    [minimal({ mounts: [{ options: {} }] }), "spec.mounts[0].options is of type object, expected a list"],
    [
      minimal({ annotations: { "io.kubernetes.cri.container-type": "vm" } }),
      'annotation io.kubernetes.cri.container-type is "vm", expected sandbox or container',
    ],
  ])("refuses %j", (json, message) => {
    expect(() => constrainSpec(json, CONTEXT)).toThrow(expect.objectContaining({ code: "ERR_SANDBOX_SPEC", message }));
  });

  it("lets only its own errors escape from any JSON", () => {
    const value = fc.dictionary(
      fc.constantFrom("process", "linux", "mounts", "annotations", "args", "user", "resources", "namespaces", "type"),
      fc.jsonValue(),
    );
    fc.assert(
      fc.property(fc.record({ process: value, linux: value, mounts: fc.jsonValue(), annotations: fc.jsonValue() }), (json) => {
        try {
          constrainSpec(json, CONTEXT);
        } catch (error) {
          expect(error).toBeInstanceOf(SandboxError);
        }
      }),
    );
  });

  it("gives a process that is started later no capabilities, limits or labels of its own", () => {
    const process = { terminal: true, consoleSize: { height: 24, width: 80 }, args: ["sh"], cwd: "/", capabilities: { bounding: ["CAP_X"] }, oomScoreAdj: 5 };
    expect(execProcess(process)).toEqual({
      Terminal: true,
      ConsoleSize: { Height: 24, Width: 80 },
      User: { UID: 0, GID: 0, AdditionalGids: [], Username: "" },
      Args: ["sh"],
      Env: [],
      Cwd: "/",
      NoNewPrivileges: false,
    });
  });
});
