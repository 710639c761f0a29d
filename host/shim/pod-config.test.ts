import { gzipSync } from "node:zlib";
import { encodeUtf8, silentLogger, toBase64 } from "@sealpod/core";
import { AKS_LAYOUT, COCO_LAYOUT } from "@sealpod/sandbox";
import { describe, expect, it } from "vitest";
import { type Bundle, parseBundle } from "./bundle.ts";
import { defaultConfig } from "./config.ts";
import { guestSpec } from "./guest-spec.ts";
import { podConfig, type PodConfig } from "./pod-config.ts";

const ID = "5a".repeat(32);
const KATA = "io.katacontainers.config.";
const POLICY = `${KATA}agent.policy`;
const INITDATA = `${KATA}hypervisor.cc_init_data`;
const base64 = (text: string): string => toBase64(encodeUtf8(text));
const initdata = (policy: string): string =>
  toBase64(new Uint8Array(gzipSync(`version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"policy.rego" = '''${policy}'''\n`)));

/** The first bundle of a pod. */
function sandbox(annotations: Readonly<Record<string, string>> = {}, namespaces: readonly object[] = [{ type: "network" }], more: object = {}): Bundle {
  const cri = { "io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": ID };
  return parseBundle(ID, `/b/${ID}`, JSON.stringify({ ociVersion: "1.2.0", annotations: { ...cri, ...annotations }, linux: { namespaces }, ...more }));
}

const CAPACITY = { memoryMiB: 8192, vcpus: 4 };

function configOf(bundle: Bundle, change: Partial<ReturnType<typeof defaultConfig>> = {}): PodConfig {
  return podConfig(bundle, { ...defaultConfig(), ...change }, CAPACITY, silentLogger);
}

describe("the policy of a pod", () => {
  it("comes in an annotation of its own", () => {
    const text = "package agent_policy # ä\n";
    expect(configOf(sandbox({ [POLICY]: base64(text) }))).toMatchObject({ policy: { kind: "policy", text }, layout: AKS_LAYOUT });
    expect(configOf(sandbox({ [POLICY]: base64(text).replaceAll(/(.{8})/g, "$1\n") }))).toMatchObject({ policy: { text } });
  });

  it("keeps a byte order mark, of which HOST_DATA is the hash too", () => {
    expect(configOf(sandbox({ [POLICY]: base64("\u{feff}package agent_policy\n") })).policy).toEqual({
      kind: "policy",
      text: "\u{feff}package agent_policy\n",
    });
  });

  it("comes within initdata, and with it what the second generation wants", () => {
    const config = configOf(sandbox({ [INITDATA]: initdata('{"driver":"blk","fstype":"tar"}{"Version":"1.1.0"} ["encryption_key=ephemeral"]') }));
    expect(config).toMatchObject({
      policy: { kind: "initdata" },
      layout: COCO_LAYOUT,
      hints: { layerFormat: "tar", ociVersion: "1.1.0" },
      encryptedEmptyDir: true,
    });
  });

  it("may be missing: the guest has one", () => {
    expect(configOf(sandbox())).toMatchObject({ policy: { kind: "none" }, hints: { layerFormat: "erofs", ociVersion: undefined }, encryptedEmptyDir: false });
    expect(configOf(sandbox(), { emptyDir: "encrypted" }).encryptedEmptyDir).toBe(true);
    // The author of a policy has decided for the node.
    expect(configOf(sandbox({ [POLICY]: base64('["mode=0777"]') }), { emptyDir: "encrypted" }).encryptedEmptyDir).toBe(false);
  });

  it("is refused if there are two, since HOST_DATA is one", () => {
    expect(() => configOf(sandbox({ [POLICY]: base64("package x"), [INITDATA]: initdata("package x") }))).toThrow(/one of them/);
  });

  it.each(["%%%", "gA==", "A".repeat(6 * 1024 * 1024)])("is refused if it is no text of that size in base64", (annotation) => {
    expect(() => configOf(sandbox({ [POLICY]: annotation }))).toThrow(expect.objectContaining({ code: "ERR_SHIM_POD" }) as Error);
  });
});

describe("the machine of a pod", () => {
  const limits = (memory: string, quota: string): Readonly<Record<string, string>> => ({
    "io.kubernetes.cri.sandbox-memory": memory,
    "io.kubernetes.cri.sandbox-cpu-quota": quota,
    "io.kubernetes.cri.sandbox-cpu-period": "100000",
  });

  it("is sized by the limits of its containers, and refused before it is made if it does not fit", () => {
    expect(configOf(sandbox(limits("134217728", "50000"))).size).toEqual({ memoryMiB: 2048 + 128, vcpus: 2 });
    expect(() => configOf(sandbox(limits("8589934592", "0")))).toThrow(
      expect.objectContaining({ details: expect.objectContaining({ reason: "capacity" }) as object }) as Error,
    );
    expect(() => configOf(sandbox(limits("0", "400000")))).toThrow(/5 CPUs/);
    // Where no driver holds a machine to its size, there is nothing to fit.
    expect(podConfig(sandbox(limits("8589934592", "0")), defaultConfig(), undefined, silentLogger).size.memoryMiB).toBe(2048 + 8192);
  });

  it("of a container of its own is sized by that one's limits", () => {
    const linux = { namespaces: [{ type: "network" }], resources: { memory: { limit: 268435456 }, cpu: { quota: 150000, period: 100000 } } };
    expect(configOf(parseBundle("ctr1", "/b/ctr1", JSON.stringify({ linux }))).size).toEqual({ memoryMiB: 2048 + 256, vcpus: 3 });
  });

  it("changes by annotations that the node allows, and by no others", () => {
    const name = `${KATA}hypervisor.default_memory`;
    expect(configOf(sandbox({ [name]: "512" }), { enableAnnotations: ["default_memory"] }).size.memoryMiB).toBe(512 + 2048);
    expect(() => configOf(sandbox({ [name]: "512" }))).toThrow(/does not take it/);
    expect(() => configOf(sandbox({ [`${KATA}hypervisor.kernel_params`]: "debug" }))).toThrow(/kernel_params/);
    const lines: unknown[] = [];
    const logger = { log: (...line: unknown[]) => void lines.push(line[1]) };
    podConfig(sandbox({ [`${KATA}runtime.sandbox_cgroup_only`]: "true", [POLICY]: base64("x") }), defaultConfig(), CAPACITY, logger);
    expect(lines).toEqual(["an annotation for another shim has no effect"]);
  });

  it("takes initdata only where the node allows it, as it does by itself", () => {
    const bundle = sandbox({ [INITDATA]: initdata("package x") });
    expect(() => configOf(bundle)).not.toThrow();
    expect(() => configOf(bundle, { enableAnnotations: ["default_memory"] })).toThrow(/cc_init_data, and this node does not take it/);
    expect(() => configOf(bundle, { enableAnnotations: [] })).toThrow(
      expect.objectContaining({ code: "ERR_SHIM_POD", hint: expect.stringContaining('Add "cc_init_data"') as string }) as Error,
    );
  });

  it("is never in the node's network, nor made for a container of another pod", () => {
    expect(() => configOf(sandbox({}, []))).toThrow(/the node's network/);
    expect(() => configOf(sandbox({}, [{ type: "network", path: "/proc/1/ns/net" }]))).not.toThrow();
    const member = { annotations: { "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": ID }, linux: {} };
    expect(() => configOf(parseBundle("c1", "/b/c1", JSON.stringify(member)))).toThrow(/first container is not here/);
  });
});

describe("what the guest is told of a container", () => {
  const plain = { ociVersion: undefined, withoutCpuLimit: false };

  it("has the version that the policy names, or else containerd's", () => {
    expect(guestSpec(sandbox(), plain)["ociVersion"]).toBe("1.2.0");
    expect(guestSpec(sandbox(), { ...plain, ociVersion: "1.1.0" })["ociVersion"]).toBe("1.1.0");
  });

  it.each([
    ["/var/run/netns/cni-0123abcd-0123-0123-0123-0123456789ab", true],
    ["/var/run/netns/cnitest-0123abcd-0123-0123-0123-0123456789ab", true],
    ["/run/netns/other", false],
    ["/var/run/netns/cni-0123abcd-0123-0123-0123-0123456789ab/../x", false],
  ])("names the network %s: %s", (path, named) => {
    const annotations = guestSpec(sandbox({}, [{ type: "network", path }]), plain)["annotations"] as Readonly<Record<string, string>>;
    expect(annotations["nerdctl/network-namespace"]).toBe(named ? path : undefined);
    expect(annotations["io.kubernetes.cri.sandbox-id"]).toBe(ID);
  });

  it("does not name the network of a pod in its other containers, whose policies have no such annotation", () => {
    const network = { namespaces: [{ type: "network", path: "/var/run/netns/cni-0123abcd-0123-0123-0123-0123456789ab" }] };
    const member = { annotations: { "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": ID }, linux: network };
    expect(guestSpec(parseBundle("c1", "/b/c1", JSON.stringify(member)), plain)["annotations"]).toEqual(member.annotations);
  });

  it("leaves a CPU limit out where a part of the processor starts nothing, and keeps the shares", () => {
    const cpu = { shares: 512, quota: 50000, period: 100000 };
    const bundle = parseBundle("c1", "/b/c1", JSON.stringify({ linux: { resources: { cpu, memory: { limit: 5 } }, maskedPaths: ["/x"] } }));
    expect(guestSpec(bundle, plain)["linux"]).toMatchObject({ resources: { cpu } });
    expect(guestSpec(bundle, { ...plain, withoutCpuLimit: true })["linux"]).toEqual({
      maskedPaths: ["/x"],
      resources: { cpu: { shares: 512 }, memory: { limit: 5 } },
    });
    expect(guestSpec(parseBundle("c1", "/b/c1", '{"linux":{}}'), { ...plain, withoutCpuLimit: true })["linux"]).toEqual({});
  });

  it("has no servers of names for the pause container alone", () => {
    const mounts = [{ destination: "/etc/resolv.conf" }, { destination: "/proc" }];
    expect(guestSpec(sandbox({}, [], { mounts }), plain)["mounts"]).toEqual([{ destination: "/proc" }]);
    expect(guestSpec(parseBundle("c1", "/b/c1", JSON.stringify({ mounts, linux: {} })), plain)["mounts"]).toEqual(mounts);
  });
});
