import { mkdtemp, mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AKS_SIZING } from "@sealpod/sandbox";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { defaultConfig, defaultConfigText, loadConfig, parseConfig, parseToml, ShimError } from "./index.ts";

const problem = (text: string): ShimError => {
  try {
    parseConfig(text, "shim.toml");
  } catch (error) {
    if (error instanceof ShimError) return error;
    throw error;
  }
  throw new Error("it was taken");
};

describe("the file that is written", () => {
  it("says what holds without it", () => {
    expect(parseConfig(defaultConfigText(), "written")).toEqual(defaultConfig());
    expect(defaultConfig().sizing).toEqual(AKS_SIZING);
  });

  it("documents each of its keys, none twice", () => {
    const keys = defaultConfigText()
      .split("\n")
      .filter((line) => /^[a-z]/.test(line))
      .map((line) => line.split(" = ")[0]);
    expect(new Set(keys).size).toBe(keys.length);
    expect(keys.length).toBeGreaterThan(20);
    expect(Object.keys(parseToml(defaultConfigText(), "written"))).toEqual(["hypervisor", "runtime", "processor"]);
    expect(defaultConfigText()).toMatch(/NO HARDWARE PROTECTION/);
  });

  it("names the places of another prefix", () => {
    const config = parseConfig(defaultConfigText({ uvm: '/srv/a "b"/uvm', agent: "/srv/agent.mjs" }), "written");
    expect(config).toEqual({ ...defaultConfig(), uvm: '/srv/a "b"/uvm', agent: "/srv/agent.mjs" });
  });
});

describe("a configuration", () => {
  it("has every value that the file has", () => {
    const id = (length: number): string => Buffer.alloc(length, 7).toString("base64");
    expect(
      parseConfig(
        `[hypervisor]
         isolation = "snp"
         uvm = "/u"
         firmware = "/fw"
         snp_cpu = "EPYC-Milan"
         snp_guest_policy = 0x30001
         snp_id_block = "${id(96)}"
         snp_id_auth = "${id(4096)}"
         agent = ""
         default_memory = 512
         default_vcpus = 0.5
         enable_annotations = []
         [runtime]
         static_sandbox_resource_mgmt = false
         static_sandbox_default_workload_mem = 1
         static_sandbox_default_workload_vcpus = 1.5
         container_cpu_limits = "never"
         internetworking_model = "none"
         port_forward = false
         emptydir_mode = "encrypted"
         create_container_timeout = 7
         sandbox_cgroup_only = true
         run_directory = "/run/p/"
         layer_directory = "/l/"
         log_level = "debug"
         [processor]
         socket = "/s"`,
        "shim.toml",
      ),
    ).toEqual({
      isolation: "snp",
      uvm: "/u",
      firmware: "/fw",
      snp: { cpu: "EPYC-Milan", policy: 0x30001n, id: { block: new Uint8Array(96).fill(7), authentication: new Uint8Array(4096).fill(7) } },
      agent: undefined,
      sizing: { defaultMemoryMiB: 512, defaultVcpus: 0.5, staticSandbox: false, defaultWorkloadMemoryMiB: 1, defaultWorkloadVcpus: 1.5 },
      enableAnnotations: [],
      containerCpuLimits: "never",
      processorSocket: "/s",
      runDirectory: "/run/p",
      layerDirectory: "/l",
      network: "none",
      portForward: false,
      emptyDir: "encrypted",
      sandboxCgroupOnly: true,
      createContainerTimeoutMs: 7000,
      logLevel: "debug",
    });
  });

  it.each<[string, string, RegExp, RegExp?]>([
    ["what is no TOML", "[hypervisor", /shim\.toml:1:\d+: not TOML/],
    ["a key twice", "[runtime]\nport_forward = true\nport_forward = true", /shim\.toml:3:\d+: not TOML/],
    ["a key that is misspelt", "[hypervisor]\ndefault_memmory = 1", /\[hypervisor\] has "default_memmory"/, /Did you mean default_memory\?/],
    ["a key of another table", "[hypervisor]\nport_forward = true", /has "port_forward"/, /stands in \[runtime\]/],
    ["a key of no table", "isolation = 'vm'", /"isolation" at the top/, /stands in \[hypervisor\]/],
    ["a key like no other", "[processor]\nzzzzzzzzzzzzzzz = 1", /zzzzzzz/, /There are: socket/],
    ["a table of Kata's file", "[hypervisor.qemu]\npath = '/q'", /has "qemu"/],
    ["an unknown table", "[hypervizor]", /"hypervizor" at the top/, /Did you mean hypervisor/],
    ["a table that is none", "hypervisor = 3", /hypervisor is 3, expected a table/],
    ["a list of tables", "[[hypervisor]]", /expected a table/],
    ["a name that objects have", "[constructor]\na = 1", /not TOML|"constructor" at the top/],
    ["a name that all objects have, as a key", "[runtime]\ntoString = 1", /has "toString"/],
    ["another word", "[hypervisor]\nisolation = 'kvm'", /isolation is "kvm", expected "auto" or "snp" or "vm" or "process"/],
    ["a number for a truth value", "[runtime]\nport_forward = 1", /port_forward is 1, expected true or false/],
    ["a relative path", "[hypervisor]\nuvm = 'uvm'", /uvm is "uvm", expected an absolute path/],
    ["no path where one is needed", "[hypervisor]\nuvm = ''", /uvm is ""/],
    ["a path with a NUL", '[hypervisor]\nuvm = "/a\\u0000"', /uvm is "\/a/],
    ["a path that leads elsewhere", '[runtime]\nrun_directory = "/../etc"', /run_directory is "\/\.\.\/etc", expected an absolute path without/],
    ["a layer directory that leads elsewhere", '[runtime]\nlayer_directory = "/var/lib/../../etc"', /layer_directory is/],
    ["an image that is elsewhere", '[hypervisor]\nuvm = "/opt/.."', /uvm is/],
    ["firmware that is elsewhere", '[hypervisor]\nfirmware = "/fw/./OVMF.fd"', /firmware is .*or "" for none/],
    ["an agent that is elsewhere", '[hypervisor]\nagent = "/opt//agent.mjs"', /agent is/],
    ["a socket that is elsewhere", '[processor]\nsocket = "/run/../psp.sock"', /socket is/],
    ["the root", '[runtime]\nrun_directory = "/"', /run_directory is "\/"/],
    ["slashes for the root", '[runtime]\nrun_directory = "//"', /run_directory is/],
    ["two slashes at the end", '[runtime]\nrun_directory = "/run/p//"', /run_directory is/],
    ["a directory too long for sockets", `[runtime]\nrun_directory = "/${"r".repeat(54)}"`, /at most 54 bytes/],
    ["a socket's path too long", `[processor]\nsocket = "/${"r".repeat(107)}"`, /at most 107 bytes/],
    ["memory below nothing", "[hypervisor]\ndefault_memory = -1", /default_memory is -1/],
    ["a part of a MiB", "[hypervisor]\ndefault_memory = 1.5", /default_memory is 1.5, expected an integer/],
    ["no number", "[hypervisor]\ndefault_vcpus = nan", /default_vcpus/],
    ["no time at all", "[runtime]\ncreate_container_timeout = 0", /from 1 to 86400/],
    ["annotations that are patterns", "[hypervisor]\nenable_annotations = ['.*']", /enable_annotations/],
    ["annotations that are no list", "[hypervisor]\nenable_annotations = 'x'", /enable_annotations is "x"/],
    ["a date", "[hypervisor]\nuvm = 1979-05-27", /uvm is/],
    ["half an identity", `[hypervisor]\nsnp_id_block = "${Buffer.alloc(96).toString("base64")}"`, /expected both or none/],
    ["a short identity", '[hypervisor]\nsnp_id_block = "AAAA"', /96 bytes in base64/],
    ["an argument of QEMU for a processor", "[hypervisor]\nsnp_cpu = 'EPYC,x=1'", /snp_cpu/],
    ["SEV-SNP without firmware", "[hypervisor]\nisolation = 'snp'", /firmware is ""/],
    ["a file above the limit", "#".repeat(257 * 1024), /more than 262144/],
    ["depth", `[hypervisor]\nuvm = ${"[".repeat(200)}${"]".repeat(200)}`, /not TOML/],
  ])("with %s is refused", (_name, text, message, hint) => {
    const error = problem(text);
    expect(error.code).toBe("ERR_SHIM_CONFIG");
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(/^shim\.toml/);
    if (hint !== undefined) expect(error.hint).toMatch(hint);
    expect(error.message.length).toBeLessThan(400);
  });
});

describe("a configuration's file", () => {
  let directory = "";
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "shim-config-"));
    await mkdir(join(directory, "uvm"));
    await writeFile(join(directory, "uvm", "uvm.json"), "{}");
    await writeFile(join(directory, "agent.mjs"), "");
  });
  afterAll(async () => rm(directory, { recursive: true, force: true }));

  const load = async (text: string): Promise<unknown> => {
    const path = join(directory, "shim.toml");
    await writeFile(path, text);
    return loadConfig(path);
  };

  it("is read", async () => {
    expect(await load(`[hypervisor]\nuvm = "${directory}/uvm"`)).toEqual({ ...defaultConfig(), uvm: `${directory}/uvm` });
    expect(await load(`[hypervisor]\nisolation = "process"\nagent = "${directory}/agent.mjs"`)).toMatchObject({ isolation: "process" });
    await symlink("shim.toml", join(directory, "link.toml"));
    expect(await loadConfig(join(directory, "link.toml"))).toMatchObject({ isolation: "process" });
  });

  it.each<[string, string, RegExp]>([
    ["an image", '[hypervisor]\nuvm = "/absent"', /hypervisor\.uvm names \/absent\/uvm\.json, which cannot be read/],
    ["an agent", '[hypervisor]\nisolation = "process"\nagent = "/absent"', /hypervisor\.agent names \/absent/],
    ["no agent", '[hypervisor]\nisolation = "process"\nagent = ""', /agent is ""/],
    ["firmware", '[hypervisor]\nuvm = "DIR/uvm"\nfirmware = "/absent"', /hypervisor\.firmware names \/absent/],
  ])("must not name %s that is not there", async (_name, text, message) => {
    await expect(load(text.replace("DIR", directory))).rejects.toThrow(message);
  });

  it.each([
    ["not there", "/absent/shim.toml", /cannot be read: ENOENT/],
    ["a directory", "/proc", /cannot be read/],
    ["a device that never ends", "/dev/zero", /it is not a file/],
  ])("which is %s is refused", async (_name, path, message) => {
    const error: unknown = await loadConfig(path).catch((cause: unknown) => cause);
    expect(error).toMatchObject({ code: "ERR_SHIM_CONFIG", hint: expect.stringContaining("sealpod host install") as string });
    expect(String(error)).toMatch(message);
  });

  it("of other bytes than UTF-8 is refused", async () => {
    const path = join(directory, "latin1.toml");
    await writeFile(path, Buffer.from("# \xff", "latin1"));
    await expect(loadConfig(path)).rejects.toMatchObject({ code: "ERR_SHIM_CONFIG" });
  });
});
