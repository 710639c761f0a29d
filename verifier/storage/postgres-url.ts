import { readFile } from "node:fs/promises";
import { isIP } from "node:net";
import type { ConnectionOptions } from "node:tls";
import { messageOf } from "@sealpod/core";
import { StorageError } from "./errors.ts";

/** How the connection is protected; `prefer` takes what the server offers. */
export type PostgresTls = false | "prefer" | ConnectionOptions;

/** Where a PostgreSQL database is, and as whom. */
export interface PostgresAddress {
  /** Name or address; a directory for a socket in it. */
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string | undefined;
  readonly password: string | undefined;
  readonly tls: PostgresTls;
  readonly applicationName: string;
  /** Host and database, for messages. */
  readonly name: string;
}

const PARAMETERS = ["host", "port", "user", "password", "sslmode", "sslrootcert", "sslcert", "sslkey", "application_name"] as const;
type Parameter = (typeof PARAMETERS)[number];
const MODES = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const;
type Mode = (typeof MODES)[number];
const DEFAULT_PORT = 5432;

/** True for the address of a PostgreSQL database. */
export function isPostgresUrl(url: string): boolean {
  return /^postgres(?:ql)?:\/\//i.test(url);
}

/**
 * Reads `postgres://user:password@host:port/database?sslmode=…` in the manner of libpq. Without `sslmode` the certificate of the server is verified, but for this machine's own
 * addresses and for sockets: who can change what is on the wire could give himself access.
 * @throws {StorageError} ERR_STORAGE_ARGUMENT, without any part of the address that can be secret
 */
export async function readPostgresUrl(text: string): Promise<PostgresAddress> {
  // The error of URL has the whole text in it, so it is no cause.
  // A user and no host, which libpq has for sockets, is nothing that URL knows.
  const url = URL.parse(text.replace(/^(postgres(?:ql)?:\/\/[^/?#]*@)\//i, "$1localhost/"));
  if (url === null) throw wrong("is no URL");
  if (url.hash !== "") throw wrong("has a # in it; in a password it is written %23");
  const parameters = new Map<Parameter, string>();
  for (const [name, value] of url.searchParams) {
    const known = PARAMETERS.find((one) => one === name);
    // A part of a password can end up here, so it is told only if it looks like a name.
    if (known === undefined)
      throw wrong(`has ${/^[a-z_]{1,40}$/.test(name) ? `the parameter ${name}` : "a parameter"} that is not known, expected ${PARAMETERS.join(", ")}`);
    if (parameters.has(known)) throw wrong(`has ${known} twice`);
    parameters.set(known, value);
  }
  const decode = (part: string): string => {
    try {
      return decodeURIComponent(part);
    } catch {
      throw wrong("has a % that is not followed by two hexadecimal digits");
    }
  };
  const host = parameters.get("host") ?? (decode(url.hostname).replace(/^\[|\]$/g, "") || "localhost");
  if (host.includes(",")) throw wrong("names several hosts, expected one");
  const database = decode(url.pathname.slice(1));
  if (database === "" || database.includes("/")) throw wrong("has no name of a database behind the host");
  const port = Number(parameters.get("port") ?? (url.port || DEFAULT_PORT));
  if (!(Number.isInteger(port) && port > 0 && port < 65_536)) throw wrong("has no port between 1 and 65535");
  const isSocket = host.startsWith("/");
  return {
    host,
    port,
    database,
    user: parameters.get("user") ?? (decode(url.username) || undefined),
    password: parameters.get("password") ?? (decode(url.password) || undefined),
    tls: isSocket ? false : await readTls(host, parameters),
    applicationName: parameters.get("application_name") ?? "sealpod",
    name: isSocket ? `postgres ${host}:${port}/${database}` : `postgres://${isIP(host) === 6 ? `[${host}]` : host}:${port}/${database}`,
  };
}

async function readTls(host: string, parameters: ReadonlyMap<Parameter, string>): Promise<PostgresTls> {
  const given = parameters.get("sslmode");
  const mode: Mode | undefined = given === undefined ? (isLocal(host) ? "disable" : "verify-full") : MODES.find((one) => one === given);
  if (mode === undefined) throw wrong(`has an sslmode that is not known, expected ${MODES.join(", ")}`);
  if (mode === "disable") return false;
  if (mode === "allow" || mode === "prefer") return "prefer";
  const [ca, cert, key] = await Promise.all([readPem(parameters, "sslrootcert"), readPem(parameters, "sslcert"), readPem(parameters, "sslkey")]);
  const isAddress = isIP(host) !== 0;
  return {
    // A name for the server to choose its certificate by; addresses are checked, and not sent.
    ...(isAddress ? { host } : { host, servername: host }),
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    // As libpq has it: `require` asks for encryption only, unless it was given a root to check against.
    rejectUnauthorized: mode !== "require" || ca !== undefined,
    ...(mode === "verify-full" ? {} : { checkServerIdentity: () => undefined }),
  };
}

async function readPem(parameters: ReadonlyMap<Parameter, string>, name: "sslrootcert" | "sslcert" | "sslkey"): Promise<string | undefined> {
  const file = parameters.get(name);
  if (file === undefined || (name === "sslrootcert" && file === "system")) return undefined;
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    throw wrong(`names a file as ${name} that cannot be read: ${messageOf(cause)}`, cause);
  }
}

function isLocal(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}

function wrong(what: string, cause?: unknown): StorageError {
  return new StorageError("ERR_STORAGE_ARGUMENT", `the address of the PostgreSQL database ${what}`, {
    hint: "postgres://user:password@host:5432/database?sslmode=verify-full&sslrootcert=/path, or postgres:///database?host=/directory-of-the-socket",
    ...(cause === undefined ? {} : { cause }),
  });
}
