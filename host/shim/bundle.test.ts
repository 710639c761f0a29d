import { execFileSync } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Bundle, parseBundle, readBundle, readDns } from "./bundle.ts";
import { CapturedNode, CONTAINER_ID, CONTAINERD_VERSIONS, SANDBOX_ID } from "./testdata/captured.ts";

let node: CapturedNode;

beforeEach(async () => {
  node = await CapturedNode.create();
});

afterEach(async () => {
  await node[Symbol.asyncDispose]();
});

/** The meaning of a specification with annotations and namespaces. */
function parsed(change: Readonly<Record<string, unknown>> = {}, linux: unknown = {}): Bundle {
  return parseBundle("c1", "/b", JSON.stringify({ ociVersion: "1.1.0", linux, ...change }));
}

const CRI = "io.kubernetes.cri.";

describe.each(CONTAINERD_VERSIONS)("bundles of containerd %s", (version) => {
  it("say which place a container has, and which network", async () => {
    const roles = [];
    for (const [name, id] of [
      ["sandbox", SANDBOX_ID],
      ["container", CONTAINER_ID],
      ["ctr", "ctr1"],
    ] as const) {
      const { bundle } = await node.bundle(version, name, id);
      const { role, network, annotations } = await readBundle(id, bundle);
      roles.push([role, network.kind, annotations.size > 0]);
    }
    expect(roles).toEqual([
      [{ kind: "sandbox" }, "path", true],
      [{ kind: "container", sandboxId: SANDBOX_ID }, "path", true],
      [{ kind: "single" }, "new", false],
    ]);
  });

  it("name the file with the servers of names", async () => {
    const { bundle } = await node.bundle(version, "sandbox", SANDBOX_ID);
    expect(await readDns(await readBundle(SANDBOX_ID, bundle))).toEqual(["search default.svc.cluster.local", "nameserver 10.96.0.10", "options ndots:5"]);
    const single = await node.bundle(version, "ctr", "ctr1");
    expect(await readDns(await readBundle("ctr1", single.bundle))).toEqual([]);
  });
});

describe("a specification", () => {
  it("keeps numbers that JavaScript has no numbers for", () => {
    expect(parseBundle("c1", "/b", '{"linux":{"resources":{"memory":{"limit":9223372036854775807}}}}').spec).toMatchObject({
      linux: { resources: { memory: { limit: 2n ** 63n - 1n } } },
    });
  });

  it("without a network namespace is in that of the node", () => {
    expect(parsed({}, { namespaces: [{ type: "pid" }] }).network).toEqual({ kind: "host" });
    expect(parsed({}, { namespaces: [{ type: "network", path: null }] }).network).toEqual({ kind: "new" });
  });

  it.each([
    ["text that is no JSON", "{", /config\.json/],
    ["JSON that is no object", "[]", /no JSON object/],
    ["a name twice", '{"linux":{},"linux":{}}', /linux/],
    ["nesting without end", `{"linux":${"[".repeat(1000)}${"]".repeat(1000)}}`, /deep|nest/i],
    ["a container of another system", '{"windows":{}}', /only Linux/],
  ])("is refused: %s", (_what, text, message) => {
    expect(() => parseBundle("c1", "/b", text)).toThrow(message);
    expect(() => parseBundle("c1", "/b", text)).toThrow(expect.objectContaining({ code: "ERR_SHIM_BUNDLE" }) as Error);
  });

  it.each([
    [{ annotations: [] }, {}],
    [{ annotations: { a: 1 } }, {}],
    [{ annotations: { [`${CRI}container-type`]: "vm" } }, {}],
    [{ annotations: { [`${CRI}container-type`]: "sandbox" } }, {}],
    [{ annotations: { [`${CRI}container-type`]: "sandbox", [`${CRI}sandbox-id`]: "other" } }, {}],
    [{ annotations: { [`${CRI}container-type`]: "container", [`${CRI}sandbox-id`]: "c1" } }, {}],
    [{ annotations: { [`${CRI}container-type`]: "container", [`${CRI}sandbox-id`]: "../x" } }, {}],
    [{}, { namespaces: [{ type: "network", path: "netns/x" }] }],
    [{}, { namespaces: [{ type: "network", path: 7 }] }],
    [{}, { namespaces: [{ type: "network", path: "/a\0b" }] }],
    [{}, { namespaces: [{ type: "network", path: `/${"a".repeat(5000)}` }] }],
  ])("is refused: %j %j", (change, linux) => {
    expect(() => parsed(change, linux)).toThrow(expect.objectContaining({ code: "ERR_SHIM_BUNDLE" }) as Error);
  });
});

describe("a bundle is refused", () => {
  it.each(["", "a/b", "../x", ".x", "x".repeat(200)])("with the id %j", async (id) => {
    await expect(readBundle(id, "/b")).rejects.toMatchObject({ code: "ERR_SHIM_BUNDLE" });
  });

  it.each(["bundles/x", "/b\0"])("at %j", async (directory) => {
    await expect(readBundle("c1", directory)).rejects.toThrow("no absolute path");
  });

  it("without a specification, or with one that is no file, or too large", async () => {
    const directory = node.path("bundles/c1");
    await mkdir(join(directory), { recursive: true });
    await expect(readBundle("c1", directory)).rejects.toMatchObject({ code: "ERR_SHIM_BUNDLE" });
    execFileSync("mkfifo", [join(directory, "config.json")]);
    // Nobody writes: whoever waited for a writer would wait for ever.
    await expect(readBundle("c1", directory)).rejects.toThrow("no regular file");
    const large = node.path("bundles/c2");
    await mkdir(large, { recursive: true });
    await writeFile(join(large, "config.json"), Buffer.alloc(16 * 1024 * 1024 + 1, " "));
    await expect(readBundle("c2", large)).rejects.toThrow("more than 16777216 bytes");
    await writeFile(join(large, "config.json"), Buffer.from([0x22, 0xff, 0x22]));
    await expect(readBundle("c2", large)).rejects.toThrow("UTF-8");
  });

  it("not for the size that its file says", async () => {
    // Of 0 bytes, as the kernel says of it.
    const mounts = [{ destination: "/etc/resolv.conf", source: "/proc/filesystems" }];
    const text = await readFile("/proc/filesystems", "utf8");
    expect(text.length).toBeGreaterThan(1);
    expect(await readDns(parsed({ mounts }))).toEqual(text.trimEnd().split("\n"));
    // Far larger than the room that there is at first.
    await expect(readDns(parsed({ mounts: [{ destination: "/etc/resolv.conf", source: "/proc/kallsyms" }] }))).rejects.toThrow("more than 65536 bytes");
  });

  it("with a file of name servers that is none", async () => {
    const mounts = (source: string): Readonly<Record<string, unknown>> => ({ mounts: [{ destination: "/etc/resolv.conf", source }] });
    await writeFile(node.path("large"), "#".repeat(64 * 1024 + 1));
    for (const source of [node.path("absent"), node.directory, "/dev/zero", node.path("large")]) {
      await expect(readDns(parsed(mounts(source)))).rejects.toMatchObject({ code: "ERR_SHIM_BUNDLE" });
    }
    expect(await readDns(parsed(mounts("resolv.conf")))).toEqual([]);
  });
});
