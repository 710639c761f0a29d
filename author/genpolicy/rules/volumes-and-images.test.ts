import type { JsonObject, JsonValue } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { containerId, digestOf, guestBefore, type Mutable, pulledImage, set, type Shape, testPod, type TestPod } from "./test-support.ts";

type Change = (request: Mutable) => void;

/** What comes of the request for `web` after changes of the policy's data and of the request. */
function refusal(pod: TestPod, ...changes: readonly Change[]): string | undefined {
  const request = structuredClone(pod.requests[2] ?? fail());
  for (const change of changes) change(request);
  return guestBefore(pod, 2).create(pod.shape, request);
}

function fail(): never {
  throw new Error("nothing there");
}

function list(node: Mutable, ...path: readonly string[]): Mutable[] {
  return path.reduce((at, step) => at[step as never] as Mutable, node);
}

describe("an image that the guest pulls", () => {
  /** The pod of our settings for coco without layers. */
  function pullingPod(): TestPod {
    const pod = testPod("coco");
    for (const container of list(pod.data, "containers")) {
      set("storages", list(container, "storages").filter((storage) => (storage["driver"] as unknown) === "") as unknown as JsonValue)(container);
    }
    for (const [index, request] of pod.requests.entries()) {
      const annotations = list(request, "OCI", "Annotations") as unknown as JsonObject;
      const root = `/run/kata-containers/${containerId(index)}/rootfs`;
      const name = annotations["io.kubernetes.cri.container-name"] as string | undefined;
      set("storages", [pulledImage(index, name, root, annotations), ...list(request, "storages").slice(3)] as unknown as JsonValue)(request);
    }
    return pod;
  }

  it("is allowed with the digest that the policy has, and with what the request says of annotations", () => {
    expect(refusal(pullingPod())).toBeUndefined();
    expect(refusal(pullingPod(), set("storages/0/driver_options", []))).toBeUndefined();
    expect(refusal(testPod("kata-tool"))).toBeUndefined();
  });

  const OTHER_DIGEST = `docker.io/library/web@sha256:${"0".repeat(64)}`;
  const ATTACKS: readonly (readonly [string, Change, RegExp])[] = [
    [
      "a tag",
      set("storages/0/source", "docker.io/library/web:1"),
      /^container "web": storage at ".*": source: found "docker\.io\/library\/web:1", policy allows "\^\[\^@\]\+@sha256:[0-9a-f]{64}"$/,
    ],
    ["another digest", set("storages/0/source", OTHER_DIGEST), /: source: found/],
    ["the digest in the middle", set("storages/0/source", `x@${digestOf(2)}@sha256:0`), /: source: found/],
    ["the digest in a name", set("storages/0/source", `evil/${digestOf(2)}`), /: source: found/],
    ["the pause image", set("storages/0/source", "pause"), /: source: found "pause"/],
    ["another file system", set("storages/0/fstype", "ext4"), /: fstype: found "ext4", policy allows "overlay"$/],
    ["options", set("storages/0/options", ["suid"]), /: options: found/],
    [
      "another mount point",
      set("storages/0/mount_point", "/run/kata-containers/other/rootfs"),
      /^container "web": storage at: found ".*", policy allows \[.*\]$/,
    ],
    ["a group", set("storages/0/fs_group", { group_id: 0, group_change_policy: 0 }), /: fs_group: found/],
    [
      "two of them",
      (request) => void list(request, "storages").push(structuredClone(list(request, "storages")[0] ?? fail())),
      /number of storages: found 3, policy allows 2/,
    ],
  ];
  for (const [name, change, reason] of ATTACKS) {
    it(`is refused with ${name}`, () => {
      for (const pod of [pullingPod(), testPod("kata-tool")]) expect(refusal(pod, change)).toMatch(reason);
    });
  }

  it("is refused if what the puller is told is not what was checked", () => {
    const tell =
      (metadata: JsonValue): Change =>
      (request) =>
        set("storages/0/driver_options", [`image_guest_pull=${JSON.stringify({ metadata })}`])(request);
    for (const pod of [pullingPod(), testPod("kata-tool")]) {
      expect(refusal(pod, tell({ "io.kubernetes.cri.container-type": "sandbox" }))).toBeDefined();
      expect(refusal(pod, tell({ "io.kubernetes.cri-o.ContainerType": "sandbox" }), set("storages/0/source", "pause"))).toBeDefined();
      expect(refusal(pod, tell(5))).toBeDefined();
      expect(refusal(pod, tell({}))).toBeUndefined();
      for (const options of [["x"], ["image_guest_pull={}"], ["image_guest_pull={", ""], [5], ["a", "b"]] as const) {
        expect(refusal(pod, set("storages/0/driver_options", options))).toBeDefined();
      }
    }
  });

  it("cannot be left out: a container has a root that somebody vouches for", () => {
    for (const pod of [pullingPod(), testPod("kata-tool")]) {
      expect(refusal(pod, (request) => void list(request, "storages").shift())).toBeDefined();
      expect(refusal(pod, set("storages", []))).toBeDefined();
    }
  });

  it("is taken from the known tool's policy only if the manifest has the digest", () => {
    const pod = testPod("kata-tool");
    const annotations = list(pod.data, "containers", "2", "OCI", "Annotations") as unknown as Record<string, string>;
    annotations["io.kubernetes.cri.image-name"] = "web:1";
    expect(refusal(pod)).toBeDefined();
    expect(refusal(pod, set("storages/0/source", "web:1"))).toBeDefined();
  });

  it("is not taken in place of layers", () => {
    const pod = testPod("coco");
    const [pulled] = list(pullingPod().requests[2] ?? fail(), "storages");
    expect(refusal(pod, (request) => set("storages", [pulled, ...list(request, "storages").slice(3)] as unknown as JsonValue)(request))).toMatch(
      /number of storages/,
    );
    expect(refusal(pod, set("storages/2", pulled ?? fail()))).toMatch(/driver: found "image_guest_pull", policy allows "overlayfs"|driver_options: found/);
  });
});

describe("an emptyDir that is a disk", () => {
  const disk = 3;
  const point = (name: string): string => `/run/kata-containers/sandbox/storage/${name}`;
  const both =
    (source: string, name: string): Change =>
    (request) => {
      set(`storages/${disk}/source`, source)(request);
      set(`storages/${disk}/mount_point`, point(name))(request);
      for (const mount of list(request, "OCI", "Mounts")) if ((mount["destination"] as unknown) === "/scratch") set("source", point(name))(mount);
    };

  it("is allowed at any slot, PCI path or SCSI address, at the mount point that its source gives", () => {
    const pod = testPod("coco");
    expect(refusal(pod, both("03", "MDM="))).toBeUndefined();
    expect(refusal(pod, both("0:1", "MDox"), set(`storages/${disk}/driver`, "scsi"))).toBeUndefined();
  });

  for (const [name, change, reason] of [
    ["at the mount point of another", set(`storages/${disk}/mount_point`, point("MDM=")), /storage at: found ".*", policy allows \[.*\]$/],
    ["from a path", both("/dev/sda", "L2Rldi9zZGE="), /: source: found "\/dev\/sda"/],
    ["with another driver", set(`storages/${disk}/driver`, "local"), /: driver: found "local", policy allows "\^\(\?:blk\|scsi\)\$"$/],
    ["without a key of its own", set(`storages/${disk}/driver_options`, ["create_filesystem"]), /: driver_options: found/],
    ["not shared", set(`storages/${disk}/shared`, false), /: shared: found false, policy allows true$/],
    ["mounted from elsewhere", (request) => set("source", "/etc")(list(request, "OCI", "Mounts").at(-1) ?? fail()), /^container "web": mount: found/],
    [
      "mounted from a layer",
      (request) => set("source", String(request["storages"]?.[0]?.["mount_point"]))(list(request, "OCI", "Mounts").at(-1) ?? fail()),
      /mount: found/,
    ],
    ["mounted from nowhere", (request) => set("source", "")(list(request, "OCI", "Mounts").at(-1) ?? fail()), /mount: found/],
  ] as readonly (readonly [string, Change, RegExp])[]) {
    it(`is refused ${name}`, () => expect(refusal(testPod("coco"), change)).toMatch(reason));
  }

  it("is one disk for each volume", () => {
    const pod = testPod("coco");
    set("containers/2/storages/-", structuredClone(list(pod.data, "containers", "2", "storages")[disk] ?? fail()))(pod.data);
    set("containers/2/OCI/Mounts/-", { destination: "/more", type_: "bind", source: "", options: ["rbind", "rprivate", "rw"] })(pod.data);
    const more =
      (source: string, name: string, mounted: string): Change =>
      (request) => {
        set("storages/-", { ...(request["storages"]?.[disk] as JsonObject), source, mount_point: point(name) })(request);
        set("OCI/Mounts/-", { destination: "/more", type_: "bind", source: point(mounted), options: ["rbind", "rprivate", "rw"] })(request);
      };
    expect(refusal(pod, more("03", "MDM=", "MDM="))).toBeUndefined();
    expect(refusal(pod, more("03", "MDM=", "MDIvMDU="))).toMatch(/OCI\.Mounts: the same disk at (?:\/scratch and \/more)$/);
    expect(refusal(pod)).toMatch(/number of storages: found 4, policy allows 5$/);
  });
});

describe("devices", () => {
  const BLOCK = { id: "", type_: "", vm_path: "", container_path: "/dev/xvda", options: [] };
  const GPU = { id: "", type_: "vfio-pci-gk", vm_path: "", container_path: "/dev/vfio/devices/vfio", options: [] };
  const gpu = (number: number, more: JsonObject = {}): JsonObject => {
    return {
      id: `vfio${number}`,
      type_: "vfio-pci-gk",
      vm_path: "",
      container_path: `/dev/vfio/devices/vfio${number}`,
      options: ["0000:41:00.0=02/01"],
      ...more,
    };
  };
  const block = (more: JsonObject = {}): JsonObject => ({ id: "/dev/vda", type_: "blk", vm_path: "", container_path: "/dev/xvda", options: [], ...more });

  /** A pod with a raw block volume and two GPUs. */
  function devicePod(shape: Shape): TestPod {
    const pod = testPod(shape);
    set("containers/2/devices", [BLOCK, GPU, GPU])(pod.data);
    set("containers/2/OCI/Linux/Devices", [{ Type: "", Path: "/dev/xvda" }])(pod.data);
    list(pod.data, "containers", "2", "runtime_anno_patterns" as never);
    Object.assign((pod.data["containers"] as Mutable)[2]?.["runtime_anno_patterns"] as Mutable, {
      [String.raw`^cdi\.k8s\.io/vfio[0-9]+$`]: String.raw`^nvidia\.com/gpu=[0-9]+$`,
    });
    return pod;
  }
  const request =
    (devices: readonly JsonObject[], numbers: readonly number[] = [1, 2]): Change =>
    (target) => {
      set("devices", devices)(target);
      Object.assign(
        (target["OCI"] as Mutable)["Annotations"] as Mutable,
        Object.fromEntries(numbers.map((number) => [`cdi.k8s.io/vfio${number}`, `nvidia.com/gpu=${number}`])),
      );
      set("OCI/Linux/Devices", [{ Path: "/dev/xvda", Type: "b", Major: 8, Minor: 0, FileMode: 0, UID: 0, GID: 0 }])(target);
    };

  it("are allowed as the policy lists them: plugged in with the container, or there since the machine started", () => {
    for (const shape of ["coco", "kata-tool"] as const) {
      expect(refusal(devicePod(shape), request([block(), gpu(1), gpu(2)]))).toBeUndefined();
      expect(refusal(devicePod(shape), request([gpu(2), gpu(1), block({ type_: "scsi" })]))).toBeUndefined();
      expect(refusal(devicePod(shape), request([block()]))).toBeUndefined();
    }
  });

  for (const [name, change] of [
    ["one missing", request([gpu(1), gpu(2)])],
    ["one more", request([block(), block({ container_path: "/dev/mem" }), gpu(1), gpu(2)])],
    ["one twice", request([block(), block(), gpu(1), gpu(2)])],
    ["a GPU fewer than announced", request([block(), gpu(1)])],
    ["a GPU twice", request([block(), gpu(1), gpu(1)])],
    ["a GPU that is not announced", request([block(), gpu(1), gpu(3)])],
    ["fewer GPUs announced", request([block(), gpu(1)], [1])],
    ["no GPU announced", request([block()], [])],
    [
      "a GPU's annotation of another form",
      (target) => {
        request([block()])(target);
        Object.assign((target["OCI"] as Mutable)["Annotations"] as Mutable, { "cdi.k8s.io/vfio1": "other" });
      },
    ],
    ["a GPU without slot", request([block(), gpu(1), gpu(2, { options: [] })])],
    ["a GPU with another option", request([block(), gpu(1), gpu(2, { options: ["x=y"] })])],
    ["a GPU of another type", request([block(), gpu(1), gpu(2, { type_: "vfio-ap" })])],
    ["a GPU with another id", request([block(), gpu(1), gpu(2, { id: "vfio1" })])],
    ["a GPU with a path", request([block(), gpu(1), gpu(2, { vm_path: "/dev/x" })])],
    ["a GPU in place of a disk", request([block({ type_: "vfio-pci-gk" }), gpu(1), gpu(2)])],
    [
      "another node",
      (target) => {
        request([block(), gpu(1), gpu(2)])(target);
        set("OCI/Linux/Devices/-", { Path: "/dev/mem", Type: "c", Major: 1, Minor: 1 })(target);
      },
    ],
    [
      "null for the list",
      (target) => {
        request([block(), gpu(1), gpu(2)])(target);
        set("devices", null)(target);
      },
    ],
  ] as readonly (readonly [string, Change])[]) {
    it(`are refused with ${name}`, () => {
      for (const shape of ["coco", "kata-tool"] as const) expect(refusal(devicePod(shape), change)).toMatch(/^container "web": .*(?:evice|GPU|vfio)/);
    });
  }

  it("are refused in a container that has none", () => {
    const pod = devicePod("coco");
    const target = structuredClone(pod.requests[1] ?? fail());
    set("devices", [block()])(target);
    expect(guestBefore(pod, 1).create("coco", target)).toMatch(/^container "fetch": devices: found \["\/dev\/xvda"\], policy allows \[\]$/);
  });
});

describe("what runtimes of profile coco write in more than one way", () => {
  it("is allowed there and not in profile aks", () => {
    for (const [name, change] of [
      ["network namespace", set("OCI/Linux/Namespaces/-", { Type: "network", Path: "" })],
      ["network namespace of a peer pod", set("OCI/Linux/Namespaces/-", { Type: "network", Path: "/run/netns/podns" })],
      ["cgroup namespace", set("OCI/Linux/Namespaces/-", { Type: "cgroup", Path: "" })],
      ["cgroup options", (request: Mutable): void => set("options/-", "nsdelegate")(list(request, "OCI", "Mounts")[4] ?? fail())],
    ] as const) {
      expect(refusal(testPod("coco"), change), name).toBeUndefined();
      expect(refusal(testPod("aks"), change), name).toBeDefined();
    }
  });
  it("ends there", () => {
    for (const change of [
      set("OCI/Linux/Namespaces/-", { Type: "network", Path: "/proc/1/ns/net" }),
      set("OCI/Linux/Namespaces/-", { Type: "network", Path: "/run/netns/../../proc/1/ns/net" }),
      set("OCI/Linux/Namespaces/-", { Type: "cgroup", Path: "/x" }),
      set("OCI/Linux/Namespaces/-", { Type: "user", Path: "" }),
      (request: Mutable): void => set("options/-", "rw")(list(request, "OCI", "Mounts")[4] ?? fail()),
      (request: Mutable): void => set("options", ["nosuid", "noexec", "nodev", "rw"])(list(request, "OCI", "Mounts")[1] ?? fail()),
    ])
      expect(refusal(testPod("coco"), change)).toMatch(/^container "web": (?:OCI\.Linux\.Namespaces|mount): found/);
  });
  it("may mount the kernel's settings read-only where the policy has them writable, for containers with privileges", () => {
    const pod = testPod("coco");
    set("containers/2/OCI/Mounts/1/options", ["nosuid", "noexec", "nodev", "rw"])(pod.data);
    expect(refusal(pod)).toBeUndefined();
    expect(refusal(pod, (request) => set("options", ["nosuid", "noexec", "nodev", "rw"])(list(request, "OCI", "Mounts")[1] ?? fail()))).toBeUndefined();
    expect(refusal(pod, (request) => set("options", ["nosuid", "ro"])(list(request, "OCI", "Mounts")[1] ?? fail()))).toMatch(/mount: found/);
  });
});

describe("policy data of the known tools", () => {
  it("has a name that was made by the cluster", () => {
    const pod = testPod("aks-tool");
    expect(refusal(pod)).toBeUndefined();
    const target = structuredClone(pod.requests[0] ?? fail());
    set("OCI/Annotations/io.kubernetes.cri.sandbox-name", "a b")(target);
    expect(guestBefore(pod, 0).create("aks-tool", target)).toMatch(/sandbox-name: found "a b"|log-directory: found/);
  });
  it("may have a plain dollar, one value out of two, and a form for what is not known", () => {
    const pod = testPod("aks-tool");
    const env = list(pod.data, "containers", "2", "OCI", "Process", "Env") as unknown as string[];
    env.push("PATH=/other", "A=$(todo-annotation)", "B=$(NOBODY)-$(pod-ip)", "C=$$x", "JOB=$(job-index)");
    const add =
      (...variables: readonly string[]): Change =>
      (request) =>
        void (list(request, "OCI", "Process", "Env") as unknown as string[]).push(...variables);
    const all = ["A=any", "B=$(NOBODY)-10.0.0.1", "C=$x", "JOB=7"];
    expect(refusal(pod, add(...all))).toBeUndefined();
    expect(refusal(pod, add("A=any", "B=$(NOBODY)-10.0.0.1", "C=$$x", "JOB=7"))).toBeUndefined();
    expect(refusal(pod, add(...all, "PATH=/other"))).toMatch(/number of names/);
    expect(refusal(pod, add(...all.with(1, "B=$(NOBODY)-x")))).toMatch(/process\.Env: found "B=/);
    expect(refusal(pod, add(...all.with(3, "JOB=07")))).toMatch(/process\.Env: found "JOB=07"/);
  });
  it("lets containerd set its two sysctls, of which the AKS tool knows nothing", () => {
    expect(refusal(testPod("aks-tool"), set("OCI/Linux/Sysctl/net.ipv4.ip_unprivileged_port_start", "1"))).toMatch(/Sysctl: found/);
    expect(refusal(testPod("aks-tool"), set("OCI/Linux/Sysctl", {}))).toBeUndefined();
  });
});

describe("placeholders of our settings", () => {
  const CASES: readonly (readonly [entry: string, good: readonly string[], bad: readonly string[]])[] = [
    ["V=$(label)", ["V=", "V=a", "V=a_b.c-d"], ["V=-a", "V=a b", `V=${"a".repeat(64)}`]],
    ["V=$(job-index)", ["V=0", "V=12"], ["V=01", "V=", "V=x"]],
    ["V=$(pod-ips)", ["V=10.0.0.1", "V=10.0.0.1,fd00::2"], ["V=", "V=10.0.0.1,", "V=10.0.0.1,10.0.0.2,10.0.0.3", "V=10.0.0.1;x"]],
    ["V=$(host-ips)", ["V=10.0.0.1"], ["V=x"]],
    ["V=$(host-ip)", ["V=10.0.0.1", "V=fd00::1"], ["V=10.0.0.1,10.0.0.2", "V=2001:DB8::1 x"]],
    ["V=$$(host-ip)", ["V=$(host-ip)"], ["V=10.0.0.1", "V=$$(host-ip)"]],
    ["V=$(unknown)", [], ["V=$(unknown)", "V=x", "V="]],
    ["V=$(todo-annotation)", [], ["V=$(todo-annotation)", "V=x"]],
    ["V=$$$(job-index)", ["V=$3"], ["V=$$3", "V=3"]],
    ["V=a.*[b]\\$$", ["V=a.*[b]\\$"], ["V=aXX[b]\\$", "V=a.*b\\$"]],
  ];
  for (const [entry, good, bad] of CASES) {
    it(`${entry} is ${good.join(", ") || "nothing"}`, () => {
      const pod = testPod("aks");
      list(pod.data, "containers", "2", "OCI", "Process", "Env").push(entry as unknown as Mutable);
      const add =
        (variable: string): Change =>
        (request) =>
          void list(request, "OCI", "Process", "Env").push(variable as unknown as Mutable);
      for (const variable of good) expect(refusal(pod, add(variable)), variable).toBeUndefined();
      for (const variable of bad) expect(refusal(pod, add(variable)), variable).toMatch(/process\.Env: found "V=/);
    });
  }
  it("cut the host name as kubelet does", () => {
    const pod = testPod("aks");
    const name = `${"a".repeat(62)}.${"b".repeat(20)}`;
    const renamed = JSON.parse(
      JSON.stringify(pod)
        .replaceAll("web-1.a", name)
        .replaceAll(String.raw`^web-1\\.[a-z]$`, "^a+.b+$"),
    ) as TestPod;
    const host =
      (value: string): Change =>
      (request) => {
        const env = list(request, "OCI", "Process", "Env") as unknown as string[];
        env[env.indexOf(`HOSTNAME=${name}`)] = `HOSTNAME=${value}`;
      };
    expect(refusal(renamed, host("a".repeat(62)))).toBeUndefined();
    expect(refusal(renamed, host(`${"a".repeat(62)}.`))).toMatch(/process\.Env: found "HOSTNAME/);
    expect(refusal(renamed)).toMatch(/process\.Env: found "HOSTNAME/);
  });
});
