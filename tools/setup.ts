/**
 * `npm run setup`: makes sure that the distribution's tools which tests and demo start are there.
 *
 * Quiet when nothing is missing (`--quiet` also drops the summary). As root on Debian or Ubuntu it installs what is
 * missing; otherwise it prints the one command that does and exits with 1.
 *
 * `--test` also fetches the daemons and tools that judge us in the tests, unpacked into build/tools: nothing of them is
 * installed on the machine. What cannot be fetched is no error: the tests that want it are skipped by name.
 */
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";

/** A tool of the distribution: how to see that it is there, and the package that brings it. */
interface Tool {
  readonly command: string;
  readonly package: string;
  readonly why: string;
  /** Without it something else is done; it is installed where that can be done unasked, and never asked for. */
  readonly optional?: true;
}

const TOOLS: readonly Tool[] = [
  { command: "crun", package: "crun", why: "runs the containers" },
  { command: "slirp4netns", package: "slirp4netns", why: "gives the sandbox a network without touching the host's" },
  { command: "unshare", package: "util-linux", why: "makes the sandbox's namespaces" },
  { command: "nginx", package: "nginx-light", why: "the example's web server image is made from it" },
  { command: "busybox", package: "busybox-static", why: "the example's pause and sidecar images are made from it" },
  { command: "veritysetup", package: "cryptsetup-bin", why: "judges our dm-verity hashes in the tests" },
  { command: "setfattr", package: "attr", why: "restores extended attributes of image layers" },
  { command: "openssl", package: "openssl", why: "judges our certificates in the tests" },
  {
    command: "qemu-system-x86_64",
    package: "qemu-system-x86",
    why: "runs pods in a utility VM; without it they run as processes, without isolation",
    optional: true,
  },
  { command: "ip", package: "iproute2", why: "brings up the loopback of the tests' network namespaces" },
];

/** Packages that only tests start, and a file in each; `*` stands for the machine's own directory of libraries. */
const TEST_PACKAGES: readonly { readonly package: string; readonly file: string }[] = [
  { package: "containerd", file: "usr/bin/containerd" },
  { package: "runc", file: "usr/sbin/runc" },
  { package: "docker-registry", file: "usr/bin/docker-registry" },
  { package: "erofs-utils", file: "usr/bin/fsck.erofs" },
  { package: "softhsm2", file: "usr/bin/softhsm2-util" },
  { package: "libsofthsm2", file: "usr/lib/softhsm/libsofthsm2.so" },
  { package: "opensc", file: "usr/bin/pkcs11-tool" },
  { package: "opensc-pkcs11", file: "usr/lib/*/libopensc.so.8" },
  { package: "libnbd-bin", file: "usr/bin/nbdinfo" },
  { package: "libnbd0", file: "usr/lib/*/libnbd.so.0" },
  { package: "postgresql-15", file: "usr/lib/postgresql/15/bin/postgres" },
  { package: "containernetworking-plugins", file: "usr/lib/cni/host-local" },
  { package: "iptables", file: "usr/sbin/iptables-nft" },
  { package: "nftables", file: "usr/sbin/nft" },
  ...["nftables.so.1", "nftnl.so.11", "mnl.so.0", "xtables.so.12", "ip4tc.so.2", "ip6tc.so.2", "nfnetlink.so.0", "jansson.so.4", "edit.so.2"].map((name) => ({
    package: `lib${name.replace(".so.", "")}`,
    file: `usr/lib/*/lib${name}`,
  })),
  { package: "libnetfilter-conntrack3", file: "usr/lib/*/libnetfilter_conntrack.so.3" },
];

/** Programs that need libraries which were unpacked with them, and so a script that says where those are. */
const WRAPPED: readonly { readonly name: string; readonly file: string }[] = [
  { name: "iptables", file: "usr/sbin/iptables-nft" },
  { name: "ip6tables", file: "usr/sbin/ip6tables-nft" },
  { name: "nft", file: "usr/sbin/nft" },
];

/** Where they are unpacked; tools/test.ts puts its bin directories behind the PATH. */
const TEST_TOOLS = join(import.meta.dirname, "..", "build", "tools");

/** The release whose containerd is of the next line: by the release of this machine. The shim must work with both lines. */
const NEXT_RELEASE: Readonly<Record<string, string>> = { bookworm: "trixie" };

/** Where that containerd is unpacked, apart: two of one name cannot be in one PATH. It runs with the older C library. */
const NEXT_CONTAINERD = join(import.meta.dirname, "..", "build", "tools-1.7");

/** Debian keeps daemons' binaries out of the PATH of ordinary users. */
const SEARCH = [...(process.env["PATH"] ?? "").split(":"), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];

function present(command: string): boolean {
  return SEARCH.some((directory) => {
    try {
      accessSync(join(directory, command), constants.X_OK);
      return directory !== "";
    } catch {
      return false;
    }
  });
}

function install(packages: readonly string[]): boolean {
  // A package with a daemon must not start it: Debian asks this file first. One that is there already is left alone.
  const policy = "/usr/sbin/policy-rc.d";
  const ours = !existsSync(policy);
  if (ours) writeFileSync(policy, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  try {
    const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
    const apt = (...args: readonly string[]): boolean => {
      const result = spawnSync("apt-get", args, { env, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
      if (result.status !== 0) console.error(`apt-get ${args.join(" ")} failed:\n${result.stderr || result.stdout}`);
      return result.status === 0;
    };
    const done = apt("update", "-qq") && apt("install", "-y", "-qq", "--no-install-recommends", ...packages);
    // Only nginx's files are wanted: a web server must not come up with the machine because of us.
    if (done && packages.includes("nginx-light")) spawnSync("update-rc.d", ["nginx", "disable"], { env, stdio: "ignore" });
    return done;
  } finally {
    if (ours) rmSync(policy, { force: true });
  }
}

function existsBelow(root: string, [name, ...rest]: readonly string[]): boolean {
  if (name === undefined) return existsSync(root);
  if (name !== "*") return existsBelow(join(root, name), rest);
  return existsSync(root) && readdirSync(root).some((entry) => existsBelow(join(root, entry), rest));
}

function fetchTestTools(): void {
  const missing = TEST_PACKAGES.filter(({ file }) => !present(basename(file)) && !["/", TEST_TOOLS].some((root) => existsBelow(root, file.split("/"))));
  if (missing.length === 0 || !present("apt-get") || !present("dpkg-deb")) return;
  const debs = join(TEST_TOOLS, "debs");
  mkdirSync(debs, { recursive: true });
  const failed = missing.filter(({ package: name }) => {
    // One by one: a package that the distribution does not have must not keep the others out.
    const got = spawnSync("apt-get", ["download", "-qq", name], { cwd: debs, encoding: "utf8" });
    const deb = readdirSync(debs).find((file) => file.startsWith(`${name}_`));
    return got.status !== 0 || deb === undefined || spawnSync("dpkg-deb", ["-x", join(debs, deb), TEST_TOOLS]).status !== 0;
  });
  if (failed.length > 0) console.error(`setup: not fetched, their tests will be skipped: ${failed.map((item) => item.package).join(", ")}`);
}

/** Scripts for {@link WRAPPED}, in the directory that stands first in the tests' PATH. */
function wrapTestTools(): void {
  for (const { name, file } of WRAPPED) {
    const [program, script] = [join(TEST_TOOLS, file), join(TEST_TOOLS, "usr/bin", name)];
    if (!existsSync(program) || existsSync(script)) continue;
    const library = join(TEST_TOOLS, "usr/lib");
    const directories = readdirSync(library).flatMap((entry) => (existsSync(join(library, entry, "libnftnl.so.11")) ? [join(library, entry)] : []));
    // The machine's own libraries would do as well: then nothing was unpacked.
    const variables = directories.map((directory) => `LD_LIBRARY_PATH='${directory}' XTABLES_LIBDIR='${directory}/xtables' `).join("");
    mkdirSync(join(TEST_TOOLS, "usr/bin"), { recursive: true });
    writeFileSync(script, `#!/bin/sh\n${variables}exec '${program}' "$@"\n`, { mode: 0o755 });
  }
}

/** The containerd of the distribution's next release, by a package list of its own: the machine's is not touched. */
function fetchNextContainerd(): void {
  if (existsSync(join(NEXT_CONTAINERD, "usr/bin/containerd")) || !present("apt-get") || !present("dpkg-deb")) return;
  const release = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "";
  const next = NEXT_RELEASE[release];
  if (next === undefined) return;
  const apt = join(NEXT_CONTAINERD, "apt");
  const directories = ["sources", "lists/partial", "cache/archives/partial"].map((name) => join(apt, name));
  for (const directory of directories) mkdirSync(directory, { recursive: true });
  const sources = sourcesOf(release, next);
  for (const [i, { suffix, text }] of sources.entries()) writeFileSync(join(apt, "sources", `${i}.${suffix}`), text);
  const options = [
    "Dir::Etc::sourcelist=/dev/null",
    `Dir::Etc::sourceparts=${join(apt, "sources")}`,
    `Dir::State::Lists=${join(apt, "lists")}`,
    `Dir::Cache=${join(apt, "cache")}`,
    "Acquire::Languages=none",
    "APT::Sandbox::User=root",
  ].flatMap((option) => ["-o", option]);
  const run = (...args: readonly string[]): boolean =>
    spawnSync("apt-get", [...options, "-qq", ...args], { cwd: apt, stdio: ["ignore", "ignore", "ignore"] }).status === 0;
  const got = sources.length > 0 && run("update") && run("download", "containerd");
  const deb = readdirSync(apt).find((file) => file.startsWith("containerd_"));
  const unpacked = got && deb !== undefined && spawnSync("dpkg-deb", ["-x", join(apt, deb), NEXT_CONTAINERD]).status === 0;
  rmSync(unpacked ? apt : NEXT_CONTAINERD, { recursive: true, force: true });
  if (!unpacked) console.error(`setup: not fetched, its tests will be skipped: containerd of ${next}`);
}

/** The machine's package sources for one release, as they would be for another: the same places, keys and components. */
function sourcesOf(release: string, next: string): readonly { readonly suffix: "list" | "sources"; readonly text: string }[] {
  const parts = "/etc/apt/sources.list.d";
  const files = ["/etc/apt/sources.list", ...(existsSync(parts) ? readdirSync(parts).map((name) => join(parts, name)) : [])].filter((file) => existsSync(file));
  return files.flatMap((file): readonly { readonly suffix: "list" | "sources"; readonly text: string }[] => {
    if (file.endsWith(".list")) {
      const lines = readFileSync(file, "utf8").matchAll(/^(deb\s+(?:\[[^\]\n]*\]\s+)?\S+\s+)(\S+)(\s.*)$/gm);
      return [...lines]
        .filter(([, , suite]) => suite === release)
        .map(([, before, , after]) => ({ suffix: "list" as const, text: `${before}${next}${after}\n` }));
    }
    if (!file.endsWith(".sources")) return [];
    return readFileSync(file, "utf8")
      .split(/\n\s*\n/)
      .filter((stanza) => /^Types:.*\bdeb\b/m.test(stanza) && new RegExp(`^Suites:(.*\\s)?${release}(\\s|$)`, "m").test(stanza))
      .map((stanza) => ({ suffix: "sources" as const, text: `${stanza.replace(/^Suites:.*$/m, `Suites: ${next}`)}\n` }));
  });
}

function main(): number {
  const code = makeReady();
  if (code === 0 && process.argv.includes("--test")) {
    fetchTestTools();
    wrapTestTools();
    fetchNextContainerd();
  }
  return code;
}

function makeReady(): number {
  const quiet = process.argv.includes("--quiet");
  const missing = TOOLS.filter((tool) => !present(tool.command));
  if (missing.length === 0) {
    if (!quiet) console.log("setup: everything is there");
    return 0;
  }
  const packages = [...new Set(missing.map((tool) => tool.package))];
  const hasApt = present("apt-get");
  if (process.platform !== "linux") {
    console.error("setup: Sealpod's sandbox needs Linux. genpolicy, importkey and the services run elsewhere, the demo does not.");
    return 1;
  }
  if (!hasApt || process.getuid?.() !== 0) {
    const needed = missing.filter((tool) => tool.optional === undefined);
    for (const tool of missing) if (tool.optional !== undefined) console.error(`setup: without ${tool.package}: it ${tool.why}`);
    if (needed.length === 0) return 0;
    const names = needed.map((tool) => `  ${tool.command.padEnd(14)} ${tool.why}`).join("\n");
    const command = hasApt
      ? `sudo apt-get install -y --no-install-recommends ${packages.join(" ")}`
      : `install with your distribution's package manager: ${packages.join(" ")}`;
    console.error(`setup: these tools are missing:\n${names}\nInstall them, then run the command again:\n  ${command}`);
    return 1;
  }
  console.error(`setup: installing ${packages.join(", ")} (the daemons in these packages are neither started nor enabled)`);
  const [extra, needed] = [true, undefined].map((optional) => missing.filter((tool) => tool.optional === optional).map((tool) => tool.package));
  if (needed !== undefined && needed.length > 0 && !install([...new Set(needed)])) return 1;
  // Apart: what cannot be had of it must not keep the rest out.
  if (extra !== undefined && extra.length > 0) install([...new Set(extra)]);
  const still = missing.filter((tool) => tool.optional === undefined && !present(tool.command));
  if (still.length > 0) {
    console.error(`setup: still missing after the installation: ${still.map((tool) => tool.command).join(", ")}`);
    return 1;
  }
  return 0;
}

process.exitCode = main();
