import { spawnSync } from "node:child_process";
import { accessSync, constants, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Where `npm run setup` unpacks what only tests start. */
const UNPACKED = join(import.meta.dirname, "..", "..", "build", "tools");
const PROGRAM_DIRECTORIES = ["/usr/bin", "/usr/local/bin", join(UNPACKED, "usr/bin")];
const LIBRARY_ROOTS = ["/usr/lib", "/usr/lib64", "/usr/local/lib", join(UNPACKED, "usr/lib")];
const PIN = "246810";

/** Programs and module of SoftHSM and OpenSC. */
export interface SoftHsmPrograms {
  /** `softhsm2-util` of the package softhsm2. */
  readonly util: string;
  /** `pkcs11-tool` of the package opensc. */
  readonly tool: string;
  /** `libsofthsm2.so` of the package libsofthsm2. */
  readonly module: string;
  /** For programs that are unpacked and not installed. */
  readonly libraries: string;
}

/** A token in a temporary directory. */
export interface TestToken extends SoftHsmPrograms {
  readonly label: string;
  readonly pin: string;
  /** File with the PIN, mode 0600. */
  readonly pinFile: string;
  /** Variables that module and programs need; the PIN in TOKEN_PIN. */
  readonly env: Readonly<Record<string, string>>;
  readonly directory: string;
  /** Makes an RSA key pair in the token. */
  generateKey(label: string, id: string, bits?: number): void;
  /** Removes the token. */
  remove(): void;
}

/** @returns undefined if one of the packages softhsm2, libsofthsm2, opensc, opensc-pkcs11 is missing */
export function findSoftHsm(): SoftHsmPrograms | undefined {
  const util = PROGRAM_DIRECTORIES.map((directory) => join(directory, "softhsm2-util")).find(isThere);
  const tool = PROGRAM_DIRECTORIES.map((directory) => join(directory, "pkcs11-tool")).find(isThere);
  const directories = LIBRARY_ROOTS.flatMap((root) => [
    root,
    join(root, "softhsm"),
    join(root, "pkcs11"),
    ...subdirectories(root).flatMap((name) => [name, join(name, "softhsm")]),
  ]);
  const module = directories.map((directory) => join(directory, "libsofthsm2.so")).find(isThere);
  if (util === undefined || tool === undefined || module === undefined) return undefined;
  const libraries = tool.startsWith(UNPACKED) ? subdirectories(join(UNPACKED, "usr/lib")).filter((name) => name.includes("-linux-")) : [];
  return { util, tool, module, libraries: libraries.join(":") };
}

/** Makes a token of SoftHSM. */
export function makeToken(label = "vault"): TestToken {
  const programs = findSoftHsm();
  if (programs === undefined) throw new Error("there is no SoftHSM on this machine: apt-get install softhsm2 opensc");
  const directory = mkdtempSync(join(tmpdir(), "sealpod-softhsm-"));
  const configuration = join(directory, "softhsm2.conf");
  mkdirSync(join(directory, "tokens"));
  writeFileSync(configuration, `directories.tokendir = ${join(directory, "tokens")}\nobjectstore.backend = file\nlog.level = ERROR\n`);
  const pinFile = join(directory, "pin");
  writeFileSync(pinFile, `${PIN}\n`, { mode: 0o600 });
  const env = {
    PATH: "/usr/bin:/bin",
    SOFTHSM2_CONF: configuration,
    TOKEN_PIN: PIN,
    ...(programs.libraries === "" ? {} : { LD_LIBRARY_PATH: programs.libraries }),
  };
  const run = (program: string, args: readonly string[]): void => {
    const { status, stderr, error } = spawnSync(program, args, { env, encoding: "utf8" });
    if (status !== 0) throw new Error(`${program} ${args[2] ?? ""} failed: ${stderr}${error?.message ?? ""}`);
  };
  run(programs.util, ["--module", programs.module, "--init-token", "--free", "--label", label, "--so-pin", "13579", "--pin", PIN]);
  return {
    ...programs,
    label,
    pin: PIN,
    pinFile,
    env,
    directory,
    generateKey: (name, id, bits = 2048) => {
      const login = ["--module", programs.module, "--token-label", label, "--login", "--pin", "env:TOKEN_PIN"];
      run(programs.tool, [...login, "--keypairgen", "--key-type", `rsa:${bits}`, "--label", name, "--id", id, "--usage-decrypt"]);
    },
    remove: () => rmSync(directory, { recursive: true }),
  };
}

function isThere(file: string): boolean {
  try {
    accessSync(file, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

function subdirectories(directory: string): readonly string[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(directory, entry.name));
  } catch {
    return [];
  }
}
