/**
 * `npm run setup`: makes sure that the distribution's tools which tests and demo start are there.
 *
 * Quiet when nothing is missing (`--quiet` also drops the summary). As root on Debian or Ubuntu it installs what is
 * missing; otherwise it prints the one command that does and exits with 1.
 */
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** A tool of the distribution: how to see that it is there, and the package that brings it. */
interface Tool {
  readonly command: string;
  readonly package: string;
  readonly why: string;
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
  { command: "ip", package: "iproute2", why: "brings up the loopback of the tests' network namespaces" },
];

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

function main(): number {
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
    const names = missing.map((tool) => `  ${tool.command.padEnd(14)} ${tool.why}`).join("\n");
    const command = hasApt
      ? `sudo apt-get install -y --no-install-recommends ${packages.join(" ")}`
      : `install with your distribution's package manager: ${packages.join(" ")}`;
    console.error(`setup: these tools are missing:\n${names}\nInstall them, then run the command again:\n  ${command}`);
    return 1;
  }
  console.error(`setup: installing ${packages.join(", ")} (the daemons in these packages are neither started nor enabled)`);
  if (!install(packages)) return 1;
  const still = missing.filter((tool) => !present(tool.command));
  if (still.length > 0) {
    console.error(`setup: still missing after the installation: ${still.map((tool) => tool.command).join(", ")}`);
    return 1;
  }
  return 0;
}

process.exitCode = main();
