import { readFile } from "node:fs/promises";
import { asObject, messageOf, parseJson, encodeUtf8, type JsonObject, type JsonValue } from "@sealpod/core";
import { isAlive, writeFileAtomic } from "@sealpod/io";
import { ServicesError } from "./errors.ts";

/** What `up.json` says: all that a program on this machine needs to use the running services. It holds a secret, so the file has mode 0600. */
export interface Up {
  /** Layout of the file. */
  readonly version: 1;
  /** Process that serves. */
  readonly pid: number;
  /** Milliseconds since 1970. */
  readonly startedAt: number;
  /** Absolute path of the state directory. */
  readonly state: string;
  /** E.g. `sealpod.internal`; the services' host names end in it. */
  readonly domain: string;
  /** Loopback address of the listener. */
  readonly host: string;
  readonly port: number;
  /** PEM of the laptop's certificate authority. */
  readonly caCertificate: string;
  readonly endpoints: Endpoints;
  readonly sockets: Sockets;
  readonly tenantId: string;
  /** Application of the person at this laptop: may do everything in the vault. */
  readonly owner: { readonly clientId: string; readonly clientSecret: string };
  /** Managed identity of the example's pods: may get and release keys. */
  readonly workload: { readonly clientId: string; readonly subject: string };
}

/** Where the services answer. */
export interface Endpoints {
  /** Host name and port, as manifests and the sidecar take them. */
  readonly attestation: string;
  /** Host name and port of the managed HSM. */
  readonly vault: string;
  /** Host name and port of the key vault with secrets. */
  readonly keyvault: string;
  /** Host name and port of the key broker of CoCo. */
  readonly kbs: string;
  /** `https://login.<domain>:<port>`, no slash at its end. */
  readonly authority: string;
  /** Issuer of the cluster's service-account tokens. */
  readonly issuer: string;
}

/** Unix sockets of the state directory; only their owner can connect. */
export interface Sockets {
  /** Emulated security processor: NO hardware protection. */
  readonly psp: string;
  /** Token requests to the embedded Kubernetes API. */
  readonly kube: string;
}

/** A few kilobytes in fact. */
const MAX_LENGTH = 64 * 1024;

/** Path of the file. */
export function upFile(state: string): string {
  return `${state}/up.json`;
}

/** Writes the file in one step. */
export async function writeUp(up: Up): Promise<void> {
  await writeFileAtomic(upFile(up.state), encodeUtf8(`${JSON.stringify(up, undefined, 2)}\n`), 0o600);
}

/**
 * Reads `up.json` of a state directory.
 * @throws {ServicesError} ERR_SERVICES_NOT_RUNNING if there is none or its process is gone, ERR_SERVICES_STATE if it is not one of ours
 */
export async function readUp(state: string): Promise<Up> {
  const file = upFile(state);
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT")
      throw new ServicesError("ERR_SERVICES_STATE", `${file} cannot be read: ${messageOf(cause)}`, { cause });
    throw notRunning(`no services run on ${state}`, cause);
  }
  const up = parseUp(text, file);
  if (!isAlive(up.pid)) throw notRunning(`the services on ${state} have ended (process ${up.pid} is gone)`);
  return up;
}

/** @throws {ServicesError} ERR_SERVICES_STATE */
export function parseUp(text: string, what: string): Up {
  try {
    const root = asObject(parseJson(text, what, { maxLength: MAX_LENGTH, maxDepth: 4 }));
    const wanted = (object: JsonObject | undefined, name: string): JsonValue => {
      const value = object?.[name];
      if (value === undefined) throw new Error(`${name} is missing`);
      return value;
    };
    const string = (object: JsonObject | undefined, name: string): string => {
      const value = wanted(object, name);
      if (typeof value !== "string") throw new Error(`${name} is not a string`);
      return value;
    };
    const integer = (name: string): number => {
      const value = wanted(root, name);
      if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) throw new Error(`${name} is not a number`);
      return value;
    };
    if (integer("version") !== 1) throw new Error("it is of another version of Sealpod");
    const endpoints = asObject(wanted(root, "endpoints"));
    const sockets = asObject(wanted(root, "sockets"));
    const owner = asObject(wanted(root, "owner"));
    const workload = asObject(wanted(root, "workload"));
    return {
      version: 1,
      pid: integer("pid"),
      startedAt: integer("startedAt"),
      state: string(root, "state"),
      domain: string(root, "domain"),
      host: string(root, "host"),
      port: integer("port"),
      caCertificate: string(root, "caCertificate"),
      endpoints: {
        attestation: string(endpoints, "attestation"),
        vault: string(endpoints, "vault"),
        keyvault: string(endpoints, "keyvault"),
        kbs: string(endpoints, "kbs"),
        authority: string(endpoints, "authority"),
        issuer: string(endpoints, "issuer"),
      },
      sockets: { psp: string(sockets, "psp"), kube: string(sockets, "kube") },
      tenantId: string(root, "tenantId"),
      owner: { clientId: string(owner, "clientId"), clientSecret: string(owner, "clientSecret") },
      workload: { clientId: string(workload, "clientId"), subject: string(workload, "subject") },
    };
  } catch (cause) {
    throw new ServicesError("ERR_SERVICES_STATE", `${what} is not a file that "sealpod up" wrote: ${messageOf(cause)}`, {
      cause,
      hint: 'Run "sealpod up" again; it writes the file anew.',
    });
  }
}

function notRunning(problem: string, cause?: unknown): ServicesError {
  return new ServicesError("ERR_SERVICES_NOT_RUNNING", problem, { cause, hint: 'Start them with "sealpod up", or name another state directory with --state.' });
}
