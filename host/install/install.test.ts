import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { parseConfig } from "@sealpod/shim";
import { startTimeOf } from "@sealpod/vmm";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type InstallPorts, type InstallSources, planInstall, planUninstall } from "./index.ts";

const CONFIG = "etc/containerd/config.toml";
const CRI = 'plugins."io.containerd.grpc.v1.cri"';
const TEXT = `version = 2\n[${CRI}]\n  sandbox_image = "local.test/pause:1"`;
const WITHOUT_CONTAINERD: InstallPorts = { dump: async () => undefined };

let base = "";
let root = "";
let sources: InstallSources;

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), "install-"));
  root = join(base, "root");
  await mkdir(join(root, "etc/containerd"), { recursive: true });
  await mkdir(join(root, "usr/local/bin"), { recursive: true });
  await writeFile(join(root, "usr/local/bin/other"), "other");
  await writeFile(join(root, CONFIG), TEXT, { mode: 0o640 });
  const source = async (name: string, text = name): Promise<string> => {
    const path = join(base, "from", name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
    return path;
  };
  await source("uvm/vmlinux");
  await source("uvm/root.erofs");
  await source("uvm/uvm.json", "{}");
  await mkdir(join(base, "from", "uvm", "cache"));
  sources = {
    node: await source("node"),
    shim: await source("shim.mjs"),
    agent: await source("agent.mjs"),
    processor: await source("processor.mjs"),
    uvm: join(base, "from", "uvm"),
    launcher: ({ node, shim, config }) => `#!/bin/sh\nexec ${node} ${shim} ${config}\n`,
  };
});
afterEach(async () => rm(base, { recursive: true, force: true }));

/** Every file of the root with its mode and content. */
async function tree(directory = root): Promise<Readonly<Record<string, string>>> {
  const entries: [string, string][] = [];
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const mode = (await lstat(path)).mode.toString(8);
    const content = entry.isFile() ? await readFile(path, "utf8") : entry.isSymbolicLink() ? await readlink(path) : "";
    entries.push([path.slice(directory.length + 1), `${mode} ${content}`]);
  }
  return Object.fromEntries(entries.toSorted(([left], [right]) => (left < right ? -1 : 1)));
}

const install = async (options: { readonly emulated?: boolean; readonly ports?: InstallPorts } = {}): Promise<readonly (readonly [string, string])[]> => {
  const plan = await planInstall({ root }, sources, options.emulated ?? true, options.ports ?? WITHOUT_CONTAINERD);
  await plan.apply();
  return plan.changes.map(({ kind, path }) => [kind, path] as const);
};
const uninstall = async (): Promise<void> => (await planUninstall({ root })).apply();
const put = async (path: string, text: string): Promise<void> => {
  await mkdir(dirname(join(root, path)), { recursive: true });
  await writeFile(join(root, path), text);
};

describe("an installation", () => {
  it("puts everything in place, and its removal leaves every byte as it was", async () => {
    const before = await tree();
    await install();
    const after = await tree();
    expect(Object.keys(after).filter((path) => !Object.hasOwn(before, path))).toEqual([
      "etc/containerd/config.toml.before-sealpod",
      "etc/sealpod",
      "etc/sealpod/shim.toml",
      "etc/systemd",
      "etc/systemd/system",
      "etc/systemd/system/sealpod-processor.service",
      "opt",
      "opt/sealpod",
      "opt/sealpod/agent.mjs",
      "opt/sealpod/bin",
      "opt/sealpod/bin/node",
      "opt/sealpod/install.json",
      "opt/sealpod/processor.mjs",
      "opt/sealpod/runtimeclass.yaml",
      "opt/sealpod/shim.mjs",
      "opt/sealpod/uvm",
      "opt/sealpod/uvm/root.erofs",
      "opt/sealpod/uvm/uvm.json",
      "opt/sealpod/uvm/vmlinux",
      "usr/local/bin/containerd-shim-kata-cc-v2",
    ]);
    expect(after["opt/sealpod/bin/node"]).toBe("100755 node");
    expect(after["usr/local/bin/containerd-shim-kata-cc-v2"]).toBe(
      "100755 #!/bin/sh\nexec /opt/sealpod/bin/node /opt/sealpod/shim.mjs /etc/sealpod/shim.toml\n",
    );
    expect(after[CONFIG]).toMatch(/^100640 version = 2/);
    expect(after["etc/containerd/config.toml.before-sealpod"]).toBe(`100640 ${TEXT}`);
    expect(parseConfig(await readFile(join(root, "etc/sealpod/shim.toml"), "utf8"), "written")).toMatchObject({
      uvm: "/opt/sealpod/uvm",
      agent: "/opt/sealpod/agent.mjs",
    });
    expect(after["opt/sealpod/runtimeclass.yaml"]).toMatch(/handler: kata-cc\n[^]*memory: 600Mi[^]*handler: kata-cc-isolation\n/);
    expect(after["etc/systemd/system/sealpod-processor.service"]).toMatch(/EMULATED[^]*ExecStart="\/opt\/sealpod\/bin\/node" /);
    await uninstall();
    expect(await tree()).toEqual(before);
    await uninstall();
    expect(await tree()).toEqual(before);
  });

  it("changes nothing before it is applied", async () => {
    const before = await tree();
    await planInstall({ root }, sources, true, WITHOUT_CONTAINERD);
    expect(await tree()).toEqual(before);
    await install();
    const after = await tree();
    await planUninstall({ root });
    expect(await tree()).toEqual(after);
  });

  it("changes nothing the second time", async () => {
    await install();
    const after = await tree();
    expect(new Set((await install()).map(([kind]) => kind))).toEqual(new Set(["same"]));
    expect(await tree()).toEqual(after);
  });

  it("has no emulated processor where there is a real one, and loses it when one comes", async () => {
    const before = await tree();
    await install({ emulated: false });
    expect(Object.keys(await tree()).filter((path) => path.includes("processor"))).toEqual([]);
    await install({ emulated: true });
    expect(Object.keys(await tree()).filter((path) => path.includes("processor"))).toHaveLength(2);
    await install({ emulated: false });
    expect(Object.keys(await tree()).filter((path) => path.includes("processor"))).toEqual([]);
    await uninstall();
    expect(await tree()).toEqual(before);
  });

  it("replaces what is older, and keeps a configuration that was edited", async () => {
    const before = await tree();
    await install();
    await writeFile(sources.shim, "newer");
    await writeFile(join(root, "etc/sealpod/shim.toml"), "# mine\n");
    expect((await install()).filter(([kind]) => kind !== "same")).toEqual([
      ["replace", "/opt/sealpod/shim.mjs"],
      ["keep", "/etc/sealpod/shim.toml"],
    ]);
    expect(await readFile(join(root, "opt/sealpod/shim.mjs"), "utf8")).toBe("newer");
    expect(await readFile(join(root, "etc/sealpod/shim.toml"), "utf8")).toBe("# mine\n");
    expect((await install()).filter(([kind]) => kind !== "same")).toEqual([["keep", "/etc/sealpod/shim.toml"]]);
    await uninstall();
    expect(await tree()).toEqual(before);
  });

  it("leaves a configuration of the shim that was there before", async () => {
    await put("etc/sealpod/shim.toml", "# theirs\n");
    const before = await tree();
    await install();
    expect(await readFile(join(root, "etc/sealpod/shim.toml"), "utf8")).toBe("# theirs\n");
    await uninstall();
    expect(await tree()).toEqual(before);
  });

  it("does not take the place of another shim of that name", async () => {
    await put("usr/local/bin/containerd-shim-kata-cc-v2", "AKS");
    const before = await tree();
    await expect(install()).rejects.toMatchObject({ code: "ERR_INSTALL_FOREIGN", message: expect.stringContaining("containerd-shim-kata-cc-v2") as string });
    expect(await tree()).toEqual(before);
  });

  it("leaves a shim that took the place of ours", async () => {
    const before = await tree();
    await install();
    await put("usr/local/bin/containerd-shim-kata-cc-v2", "AKS");
    await uninstall();
    expect(await tree()).toEqual({ ...before, "usr/local/bin/containerd-shim-kata-cc-v2": "100755 AKS" });
  });

  it("leaves files of others in its directories", async () => {
    await install();
    await put("etc/sealpod/notes", "theirs");
    await put("opt/sealpod/bin/tool", "theirs");
    await uninstall();
    expect(Object.keys(await tree()).filter((path) => /^(?:opt|etc\/sealpod)/.test(path))).toEqual([
      "etc/sealpod",
      "etc/sealpod/notes",
      "opt",
      "opt/sealpod",
      "opt/sealpod/bin",
      "opt/sealpod/bin/tool",
    ]);
  });

  it("removes what pods and the processor left, and the unit's link", async () => {
    const before = await tree();
    await install();
    await put("var/lib/sealpod/layers/x.erofs", "layer");
    await put("var/lib/sealpod/processor/psp.json", "keys");
    await mkdir(join(root, "run/sealpod/pods"), { recursive: true });
    await mkdir(join(root, "etc/systemd/system/multi-user.target.wants"));
    await symlink("/etc/systemd/system/sealpod-processor.service", join(root, "etc/systemd/system/multi-user.target.wants/sealpod-processor.service"));
    await uninstall();
    await rm(join(root, "etc/systemd"), { recursive: true, force: true });
    const after = await tree();
    expect(Object.keys(after).filter((path) => path.includes("sealpod"))).toEqual([]);
    expect(after[CONFIG]).toBe(before[CONFIG]);
  });

  it("makes containerd's configuration where there is none", async () => {
    await rm(join(root, "etc"), { recursive: true });
    const before = await tree();
    const asked: string[] = [];
    await install({ ports: { dump: async (place) => void asked.push(await readFile(place, "utf8")) } });
    expect(asked[0]).toBe("version = 2\n");
    expect(asked[1]).toBe(await readFile(join(root, CONFIG), "utf8"));
    await uninstall();
    expect(await tree()).toEqual(before);
  });

  it("follows a link to containerd's configuration", async () => {
    await put("srv/containerd.toml", "version = 2\n");
    await rm(join(root, CONFIG));
    await symlink("../../srv/containerd.toml", join(root, CONFIG));
    const before = await tree();
    await install();
    expect((await lstat(join(root, CONFIG))).isSymbolicLink()).toBe(true);
    expect(await readFile(join(root, "srv/containerd.toml"), "utf8")).toContain("kata-cc");
    await uninstall();
    expect(await tree()).toEqual(before);
  });

  it("can be elsewhere, as the record then says", async () => {
    await put("srv/c.toml", TEXT);
    const before = await tree();
    const target = { root, prefix: "/srv/sealpod", containerdConfig: "/srv/c.toml" };
    await (await planInstall(target, sources, false, WITHOUT_CONTAINERD)).apply();
    expect(await readFile(join(root, "etc/sealpod/shim.toml"), "utf8")).toContain('"/srv/sealpod/uvm"');
    await expect(planInstall({ ...target, containerdConfig: `/${CONFIG}` }, sources, false, WITHOUT_CONTAINERD)).rejects.toMatchObject({
      code: "ERR_INSTALL_FOREIGN",
    });
    await (await planUninstall({ root, prefix: "/srv/sealpod" })).apply();
    expect(await tree()).toEqual(before);
  });
});

describe("directories of others", () => {
  const target = (): Parameters<typeof planInstall>[0] => ({ root, prefix: "/usr/local" });
  const plan = async (): ReturnType<typeof planInstall> => planInstall(target(), sources, false, WITHOUT_CONTAINERD);

  it("keep a program of theirs that has a name of ours", async () => {
    await put("usr/local/bin/node", "theirs");
    const before = await tree();
    await expect(plan()).rejects.toMatchObject({ code: "ERR_INSTALL_FOREIGN", hint: expect.stringContaining("--prefix") as string });
    expect(await tree()).toEqual(before);
  });

  it("keep one that is the same as ours, before and afterwards", async () => {
    await put("usr/local/bin/node", "node");
    await chmod(join(root, "usr/local/bin/node"), 0o755);
    const before = await tree();
    await (await plan()).apply();
    await (await plan()).apply();
    expect(Object.keys(await tree())).toContain("usr/local/shim.mjs");
    await (await planUninstall(target())).apply();
    expect(await tree()).toEqual(before);
  });

  it("keep what others have put in the place of ours", async () => {
    const before = await tree();
    await (await plan()).apply();
    await put("usr/local/agent.mjs", "theirs");
    await expect(plan()).rejects.toMatchObject({ code: "ERR_INSTALL_FOREIGN", message: expect.stringContaining("agent.mjs") as string });
    await (await planUninstall(target())).apply();
    expect(await tree()).toEqual({ ...before, "usr/local/agent.mjs": "100644 theirs" });
  });

  it("are not mistaken for ours: what is broken in a directory that we made is mended", async () => {
    const before = await tree();
    await install();
    await put("opt/sealpod/agent.mjs", "broken");
    expect((await install()).filter(([kind]) => kind !== "same")).toEqual([["replace", "/opt/sealpod/agent.mjs"]]);
    await put("opt/sealpod/agent.mjs", "broken");
    await uninstall();
    expect(await tree()).toEqual(before);
  });

  it("are ours no more than a prefix whose record is lost", async () => {
    await install();
    await rm(join(root, "opt/sealpod/install.json"));
    await writeFile(sources.shim, "newer");
    await expect(install()).rejects.toMatchObject({ code: "ERR_INSTALL_FOREIGN", hint: expect.stringContaining("install.json is lost") as string });
  });
});

describe("links in the root", () => {
  it("that are absolute mean the root's own files", async () => {
    await put("srv/containerd.toml", TEXT);
    await mkdir(join(root, "data"));
    for (const [name, to] of [
      [CONFIG, "/srv/containerd.toml"],
      ["opt", "/data"],
      ["etc/sealpod", "../../../data/etc"],
    ] as const) {
      await rm(join(root, name), { recursive: true, force: true });
      await symlink(to, join(root, name));
    }
    await mkdir(join(root, "data/etc"));
    const before = await tree();
    await install();
    const after = await tree();
    expect(after["srv/containerd.toml"]).toContain("kata-cc");
    expect(after["data/sealpod/shim.mjs"]).toBe("100644 shim.mjs");
    expect(after["data/etc/shim.toml"]).toMatch(/default_memory/);
    expect(new Set((await install()).map(([kind]) => kind))).toEqual(new Set(["same"]));
    await uninstall();
    expect(await tree()).toEqual(before);
  });

  it("do not lead to the files of the machine", async () => {
    const outside = join(base, "outside.toml");
    await writeFile(outside, TEXT);
    await rm(join(root, CONFIG));
    await symlink(outside, join(root, CONFIG));
    await mkdir(join(base, "conf.d"));
    await writeFile(join(base, "conf.d/a.toml"), TEXT);
    await put("etc/containerd/imports.toml", `version = 2\nimports = ["${base}/conf.d/*.toml", "/linked/*.toml"]\n`);
    await symlink(join(base, "conf.d"), join(root, "linked"));
    // In the root nothing is there: what the machine has at that place is not read, nor changed.
    const before = await tree();
    await expect(install()).rejects.toMatchObject({ code: "ERR_INSTALL_CONTAINERD", message: expect.stringContaining("not there") as string });
    expect(await tree()).toEqual(before);
    expect(await readFile(outside, "utf8")).toBe(TEXT);
    await (await planInstall({ root, containerdConfig: "/etc/containerd/imports.toml" }, sources, true, WITHOUT_CONTAINERD)).apply();
    expect(await readFile(outside, "utf8")).toBe(TEXT);
    expect(await readdir(base)).toEqual(["conf.d", "from", "outside.toml", "root"]);
  });

  it("that end nowhere are refused", async () => {
    await rm(join(root, CONFIG));
    await symlink("config.toml", join(root, CONFIG));
    await expect(install()).rejects.toMatchObject({ code: "ERR_INSTALL_IO", message: expect.stringContaining("more than 40 links") as string });
  });
});

describe("what the administrator is told", () => {
  const told = async (emulated: boolean): Promise<{ readonly warnings: string; readonly notes: string }> => {
    const { warnings, notes } = await planInstall({ root }, sources, emulated, WITHOUT_CONTAINERD);
    return { warnings: warnings.join("\n"), notes: notes.join("\n") };
  };

  it("is that hardware needs firmware", async () => {
    expect((await told(false)).warnings).toMatch(/names no firmware: .* every pod is refused/);
    expect((await told(true)).warnings).toBe("");
    await put("etc/sealpod/shim.toml", '[hypervisor]\nfirmware = "/fw"\n');
    expect((await told(false)).warnings).toBe("");
    await put("etc/sealpod/shim.toml", '[hypervisor]\nisolation = "vm"\n');
    expect((await told(false)).warnings).toBe("");
  });

  it("is that a configuration which is kept is broken", async () => {
    await put("etc/sealpod/shim.toml", "[hypervisor]\ndefault_memmory = 1\n");
    expect((await told(true)).warnings).toMatch(/default_memmory.*every pod is refused.*Did you mean default_memory/);
  });

  it("is what a pod takes of the node", async () => {
    expect((await told(true)).notes).toMatch(/2048 MiB of the node beside its memory limits, and 4096 MiB if it has none\..* 600 MiB/);
    await put("etc/sealpod/shim.toml", "[hypervisor]\ndefault_memory = 512\n[runtime]\nstatic_sandbox_default_workload_mem = 100\n");
    expect((await told(true)).notes).toMatch(/512 MiB .* 612 MiB if it has none/);
  });
});

describe("an installation is refused, and nothing is changed,", () => {
  const refused = async (code: string, message: RegExp, options: Parameters<typeof install>[0] = {}): Promise<void> => {
    const before = await tree();
    const error: unknown = await install(options).catch((cause: unknown) => cause);
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) as string });
    expect(await tree()).toEqual(before);
  };

  it("when containerd's configuration cannot be read", async () => {
    await writeFile(join(root, CONFIG), "version = ");
    await refused("ERR_INSTALL_CONTAINERD", /config\.toml:1/);
  });

  it("when that is no file", async () => {
    await rm(join(root, CONFIG));
    await mkdir(join(root, CONFIG));
    await refused("ERR_INSTALL_IO", /config\.toml/);
  });

  it("when an imported file counts instead", async () => {
    await writeFile(join(root, CONFIG), 'imports = ["conf.d/*.toml"]\nversion = 2\n');
    await put("etc/containerd/conf.d/a.toml", "version = 2\n[metrics]\n");
    await put("etc/containerd/conf.d/nvidia.toml", TEXT);
    await refused("ERR_INSTALL_CONTAINERD", /imports \/etc\/containerd\/conf\.d\/nvidia\.toml/);
    await rm(join(root, "etc/containerd/conf.d/nvidia.toml"));
    await install();
  });

  it("when containerd does not take it", async () => {
    await refused("ERR_INSTALL_CONTAINERD", /does not take .* as it is: bad/, { ports: { dump: async () => Promise.reject(new Error("bad")) } });
    const dump = async (place: string): Promise<string> => {
      const text = await readFile(place, "utf8");
      if (text.includes("kata-cc")) throw new Error("bad");
      return text;
    };
    await refused("ERR_INSTALL_CONTAINERD", /with the runtimes added: bad/, { ports: { dump } });
  });

  it("when containerd would lose something", async () => {
    const dump = async (place: string): Promise<string> => (await readFile(place, "utf8")).replace(/sandbox_image = .*(?=[^]*kata)/, "");
    await refused("ERR_INSTALL_CONTAINERD", /lose or change .*sandbox_image/, { ports: { dump } });
  });

  it("without an image, or without a bundle", async () => {
    const { shim, uvm } = sources;
    await rm(join(uvm, "uvm.json"));
    await refused("ERR_INSTALL_SOURCE", /no image of a utility VM/);
    await writeFile(join(uvm, "uvm.json"), "{}");
    await rm(shim);
    await refused("ERR_INSTALL_SOURCE", /shim\.mjs cannot be read/);
  });

  it.each(["relative", "/a/../b", "/a b", "/", '/a"b', "/a/"])("with the prefix %s", async (prefix) => {
    await expect(planInstall({ root, prefix }, sources, false, WITHOUT_CONTAINERD)).rejects.toMatchObject({ code: "ERR_INSTALL_SOURCE" });
  });

  it.each<[string, string]>([
    ["no JSON", "x"],
    ["another version", '{"version":2}'],
    ["a path that leads elsewhere", '{"version":1,"files":[{"path":"/opt/../etc/passwd","hashes":[]}],"directories":[],"data":[],"containerdConfig":"/c"}'],
    ["a relative path", '{"version":1,"files":[],"directories":["x"],"data":[],"containerdConfig":"/c"}'],
    ["the root", '{"version":1,"files":[],"directories":[],"data":["/"],"containerdConfig":"/c"}'],
    ["a hash that is none", '{"version":1,"files":[{"path":"/a","hashes":["x"]}],"directories":[],"data":[],"containerdConfig":"/c"}'],
  ])("with a record of %s", async (_name, text) => {
    await put("opt/sealpod/install.json", text);
    await refused("ERR_INSTALL_RECORD", /install\.json/);
    await expect(uninstall()).rejects.toMatchObject({ code: "ERR_INSTALL_RECORD" });
  });
});

describe("a removal", () => {
  const stripComments = async (): Promise<void> => {
    const path = join(root, CONFIG);
    await writeFile(path, (await readFile(path, "utf8")).replaceAll(/^#.*\n/gm, ""));
  };
  const THIRD = `[${CRI}.containerd.runtimes.large]\n  runtime_type = "io.containerd.kata-cc.v2"\n  [${CRI}.containerd.runtimes.large.options]\n    ConfigPath = "/etc/large.toml"\n`;

  it.each<[string, () => Promise<void>, RegExp]>([
    ["has lost its comments", stripComments, /runtimes\.kata-cc\] in \/etc\/containerd\/config\.toml, .*runtimes\.kata-cc-isolation\]/],
    [
      "has another runtime of ours",
      async () => {
        const path = join(root, CONFIG);
        await writeFile(path, `${await readFile(path, "utf8")}${THIRD}`);
      },
      /outside of the lines that sealpod wrote: \[plugins\."io\.containerd\.grpc\.v1\.cri"\.containerd\.runtimes\.large\] in /,
    ],
    [
      "imports another runtime of ours",
      async () => {
        const path = join(root, CONFIG);
        await writeFile(path, `imports = ["conf.d/*.toml"]\n${await readFile(path, "utf8")}`);
        await put("etc/containerd/conf.d/x.toml", `version = 2\n${THIRD}`);
      },
      /runtimes\.large\] in \/etc\/containerd\/conf\.d\/x\.toml/,
    ],
    [
      "was rewritten for containerd 2",
      async () => {
        const path = join(root, CONFIG);
        const text = (await readFile(path, "utf8"))
          .replaceAll("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
          .replace("version = 2", "version = 3");
        await writeFile(path, text.replaceAll(/^#.*\n/gm, ""));
      },
      /io\.containerd\.cri\.v1\.runtime"\.containerd\.runtimes\.kata-cc\]/,
    ],
  ])("is refused where containerd's configuration %s", async (_name, change, message) => {
    await install();
    await change();
    const before = await tree();
    const error: unknown = await uninstall().catch((cause: unknown) => cause);
    expect(error).toMatchObject({
      code: "ERR_INSTALL_CONTAINERD",
      message: expect.stringMatching(message) as string,
      hint: expect.stringContaining("Remove these tables") as string,
    });
    expect(await tree()).toEqual(before);
  });

  it("goes on when they have been removed by hand", async () => {
    await install();
    await writeFile(join(root, CONFIG), TEXT);
    await uninstall();
    expect(Object.keys(await tree()).filter((path) => path.includes("sealpod"))).toEqual([]);
  });

  it("sees the runtimes in the file that the record names, when another is named now", async () => {
    await install();
    await stripComments();
    await expect(planUninstall({ root, containerdConfig: "/etc/other.toml" })).rejects.toMatchObject({ code: "ERR_INSTALL_CONTAINERD" });
  });

  it("without a record says that there may be more", async () => {
    await (await planInstall({ root, prefix: "/srv/sealpod" }, sources, true, WITHOUT_CONTAINERD)).apply();
    expect((await planUninstall({ root })).warnings).toEqual([expect.stringMatching(/no \/opt\/sealpod\/install\.json.*--prefix/) as string]);
  });

  it("is refused while pods of another configuration run", async () => {
    await install();
    const path = join(root, CONFIG);
    await writeFile(path, `${await readFile(path, "utf8")}${THIRD}`);
    await put("etc/large.toml", '[runtime]\nrun_directory = "/run/large"\n[processor]\nsocket = "/run/large.sock"\n');
    await put("run/large/abc/shim.json", "{}");
    await expect(uninstall()).rejects.toMatchObject({ code: "ERR_INSTALL_BUSY", message: expect.stringContaining("a pod runs: /run/large/abc") as string });
    await rm(join(root, "run/large"), { recursive: true });
    const server = createServer();
    await new Promise<void>((resolve) => void server.listen(join(root, "run/large.sock"), resolve));
    await expect(uninstall()).rejects.toMatchObject({ code: "ERR_INSTALL_BUSY", message: expect.stringContaining("/run/large.sock") as string });
    await new Promise((resolve) => void server.close(resolve));
  });

  it.each(["/run/containerd", "/run/other"])("is refused while a shim runs whose configuration nobody names any more, with bundles in %s", async (state) => {
    await writeFile(join(root, CONFIG), state === "/run/containerd" ? TEXT : TEXT.replace("version = 2", `version = 2\nstate = "${state}"`));
    await install();
    const bundle = `${state.slice(1)}/io.containerd.runtime.v2.task/k8s.io/abc`;
    const record = { version: 1, namespace: "k8s.io", id: "abc", pid: process.pid, startTime: startTimeOf("self"), bundle: `/${bundle}` };
    await put(`${bundle}/shim.json`, JSON.stringify(record));
    await expect(uninstall()).rejects.toMatchObject({ code: "ERR_INSTALL_BUSY", message: expect.stringContaining(`${process.pid} is its shim`) as string });
    // The number of a process that is no more belongs to another by now.
    await put(`${bundle}/shim.json`, JSON.stringify({ ...record, startTime: "1" }));
    await uninstall();
  });

  it("is refused while pods run", async () => {
    await install();
    await put("run/sealpod/pods/abc/shim.json", "{}");
    const before = await tree();
    await expect(uninstall()).rejects.toMatchObject({ code: "ERR_INSTALL_BUSY", message: expect.stringContaining("abc") as string });
    expect(await tree()).toEqual(before);
    const record = { version: 1, namespace: "k8s.io", id: "my-pod", pid: 9, startTime: "1", bundle: "/b" };
    await put("run/sealpod/pods/abc/shim.json", JSON.stringify(record));
    await mkdir(join(root, "run/sealpod/pods/def"));
    await expect(uninstall()).rejects.toMatchObject({ message: "2 pods run: my-pod (/run/sealpod/pods/abc)" });
  });

  it("is refused while pods run elsewhere", async () => {
    await install();
    await writeFile(join(root, "etc/sealpod/shim.toml"), '[runtime]\nrun_directory = "/run/p"\n');
    await put("run/p/abc/shim.json", "{}");
    await expect(uninstall()).rejects.toMatchObject({ code: "ERR_INSTALL_BUSY" });
    await rm(join(root, "run/p/abc"), { recursive: true });
    expect((await planUninstall({ root })).warnings).toEqual([expect.stringContaining("/run/p is named in") as string]);
  });

  it("is refused while the emulated processor runs, and not for the socket that it left", async () => {
    await install();
    await mkdir(join(root, "run/sealpod"), { recursive: true });
    const server = createServer();
    await new Promise<void>((resolve) => void server.listen(join(root, "run/sealpod/psp.sock"), resolve));
    await expect(uninstall()).rejects.toMatchObject({ code: "ERR_INSTALL_BUSY", hint: expect.stringContaining("systemctl disable --now") as string });
    await new Promise((resolve) => void server.close(resolve));
    await put("run/sealpod/psp.sock", "");
    await uninstall();
    expect(Object.keys(await tree()).filter((path) => path.includes("sealpod"))).toEqual([]);
  });

  it("undoes an installation that was cut short", async () => {
    const before = await tree();
    // The unit's directory cannot be made: what stands before it has been written by then.
    await put("etc/systemd", "no directory");
    await expect(install()).rejects.toMatchObject({ code: "ERR_INSTALL_IO" });
    expect(Object.keys(await tree())).toContain("opt/sealpod/install.json");
    await rm(join(root, "etc/systemd"));
    await uninstall();
    expect(await tree()).toEqual(before);
  });

  it("undoes one whose files went away while it was made", async () => {
    const before = await tree();
    const plan = await planInstall({ root }, sources, true, WITHOUT_CONTAINERD);
    await rm(sources.agent);
    await expect(plan.apply()).rejects.toMatchObject({ code: "ERR_INSTALL_IO", message: expect.stringContaining("agent.mjs") as string });
    expect(Object.keys(await tree())).toContain("opt/sealpod/shim.mjs");
    await uninstall();
    expect(await tree()).toEqual(before);
  });

  it("takes the runtimes out of a configuration that has changed since", async () => {
    await install();
    const path = join(root, CONFIG);
    await writeFile(path, (await readFile(path, "utf8")).replace("pause:1", "pause:2"));
    await chmod(path, 0o600);
    await uninstall();
    expect(await readFile(path, "utf8")).toBe(TEXT.replace("pause:1", "pause:2"));
    expect(((await stat(path)).mode & 0o777).toString(8)).toBe("600");
  });
});
