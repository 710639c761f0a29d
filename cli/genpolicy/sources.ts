import * as http from "node:http";
import { homedir } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import type { RegistryCredentials } from "@sealpod/containerd";
import type { Logger } from "@sealpod/core";
import type { SourceSpec } from "@sealpod/genpolicy";
import { directoryTree, fileSource, run } from "@sealpod/io";
import {
  dockerConfigPath,
  type ImageSource,
  openCredentials,
  openDockerArchive,
  openLayout,
  openRegistry,
  type Platform,
  type RegistryOptions,
  type RegistryPorts,
} from "@sealpod/oci";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { pathOf, readIfPresent } from "../workspace.ts";

/** Flags that say how images are fetched. */
export interface SourceOptions {
  readonly insecureRegistry?: readonly string[];
  readonly registryMirror?: readonly string[];
  readonly platform?: string;
}

/** Milliseconds that a credential helper may take: some ask the user to unlock a key ring. */
const HELPER_TIMEOUT = 60_000;

/** Bytes that a credential helper may write. */
const MAX_HELPER_OUTPUT = 1024 * 1024;

/** Opens a source of images with this machine's files, network and logins. */
export function sourceOpener(options: SourceOptions, context: CliContext, logger: Logger): (spec: SourceSpec) => Promise<ImageSource> {
  const platform = platformOf(options.platform ?? "linux/amd64");
  const registry: RegistryOptions = {
    platform,
    insecureRegistries: options.insecureRegistry ?? [],
    mirrors: mirrorsOf(options.registryMirror ?? []),
    dockerConfig: pathOf(dockerConfigPath(context.env["DOCKER_CONFIG"], context.env["HOME"] ?? homedir()), context),
  };
  const ports = registryPorts(context, logger);
  let isProxySet = false;
  return async (spec) => {
    switch (spec.kind) {
      case "oci":
        return openLayout(directoryTree(pathOf(spec.path, context)), { platform });
      case "docker-archive":
        // Open until the process ends: layers are read from it until then.
        return openDockerArchive(await fileSource(pathOf(spec.path, context)), { platform });
      case "containerd": {
        const { openContainerd } = await import("@sealpod/containerd");
        return openContainerd(
          { socketPath: pathOf(spec.path, context), platform },
          { credentials: containerdCredentials(openCredentials(registry.dockerConfig ?? "", ports), logger) },
        );
      }
      case "registry":
        if (!isProxySet) useProxies(context, logger);
        isProxySet = true;
        return openRegistry(registry, ports);
    }
  };
}

/** What containerd's CRI can be given: it has no place for a registry's own token. */
function containerdCredentials(
  find: ReturnType<typeof openCredentials>,
  logger: Logger,
): (registry: string, repository: string) => Promise<RegistryCredentials | undefined> {
  return async (registry, repository) => {
    const found = await find(registry, repository);
    switch (found?.kind) {
      case undefined:
        return undefined;
      case "basic":
        return { username: found.username, password: found.password };
      case "identity":
        return { identityToken: found.token };
      case "bearer":
        logger.log("warn", `the login for ${registry} is a registry token, which containerd cannot be given: it pulls without one`);
        return undefined;
    }
  };
}

function registryPorts(context: CliContext, logger: Logger): RegistryPorts {
  return {
    fetch: async (url, init) => fetch(url, init),
    readFile: async (path, limit) => readIfPresent(path, limit, context),
    async runCredentialHelper(name, server) {
      const { code, stdout } = await run(`docker-credential-${name}`, ["get"], {
        input: new TextEncoder().encode(server),
        timeoutMs: HELPER_TIMEOUT,
        maxOutput: MAX_HELPER_OUTPUT,
        okCodes: [0, 1],
      });
      return { exitCode: code, stdout: new TextDecoder().decode(stdout) };
    },
    sleep: async (ms, signal) => sleep(ms, undefined, { signal }),
    clock: context.clock,
    random: context.random,
    logger,
  };
}

/** Node's fetch does not look at HTTPS_PROXY and its kin by itself; every other client of registries does. */
function useProxies(context: CliContext, logger: Logger): void {
  const names = Object.keys(context.env).filter((name) => /^https?_proxy$/i.test(name) && context.env[name] !== "");
  if (names.length === 0) return;
  // Node 24 has it since 24.14.
  const { setGlobalProxyFromEnv: set } = http as { readonly setGlobalProxyFromEnv?: typeof http.setGlobalProxyFromEnv };
  if (set === undefined) {
    logger.log("warn", `${names.join(", ")}: this Node cannot use a proxy, registries are asked directly`);
    return;
  }
  try {
    set(context.env);
  } catch {
    // Neither the value nor the error is shown: proxies' addresses hold passwords.
    throw new CliError("ERR_CLI_USAGE", `${names.join(", ")}: not the address of a proxy`, { hint: "Expected: http://[user:password@]host:port" });
  }
}

function platformOf(text: string): Platform {
  const [os = "", architecture = "", more] = text.split("/");
  if (os === "" || architecture === "" || more !== undefined) {
    throw new CliError("ERR_CLI_USAGE", `--platform ${JSON.stringify(text)} is not OS/ARCHITECTURE`, { hint: "For example: --platform linux/arm64" });
  }
  return { os, architecture };
}

function mirrorsOf(texts: readonly string[]): ReadonlyMap<string, readonly string[]> {
  const mirrors = new Map<string, readonly string[]>();
  for (const text of texts) {
    const at = text.indexOf("=");
    const [host, mirror] = [text.slice(0, at), text.slice(at + 1)];
    if (at < 1 || mirror === "") {
      throw new CliError("ERR_CLI_USAGE", `--registry-mirror ${JSON.stringify(text)} is not HOST=MIRROR`, {
        hint: "For example: --registry-mirror docker.io=mirror.example:5000",
      });
    }
    mirrors.set(host, [...(mirrors.get(host) ?? []), mirror]);
  }
  return mirrors;
}
