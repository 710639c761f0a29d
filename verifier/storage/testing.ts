import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { accessSync, chownSync, constants, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";

/** Where the programs of the server are if they are not in a directory of their version. */
const DIRECTORIES = ["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"];
/** Users that a server can run as when root starts it: it refuses to be root itself. */
const USERS = ["postgres", "nobody"];
const READY = "database system is ready to accept connections";

/** A server of its own, for tests. */
export interface TestPostgres {
  /** Of its first database. */
  readonly url: string;
  /** Makes an empty database. @returns its URL */
  createDatabase(): Promise<string>;
  /** Process of the server, as long as it runs. */
  readonly pid: number;
  /** SIGKILL to the server's first process, whose children follow it; the data stay as they are on disk. */
  kill(): Promise<void>;
  /** Starts it again on the same data. */
  start(): Promise<void>;
  /** Ends it, and removes everything. */
  stop(): Promise<void>;
}

/**
 * The directory of PostgreSQL's server programs, the newest version first.
 * @returns undefined if there are none: the package is `postgresql-<version>` on Debian
 */
export function findPostgres(): string | undefined {
  const versions = list("/usr/lib/postgresql")
    .toSorted((a, b) => Number(b) - Number(a))
    .map((version) => join("/usr/lib/postgresql", version, "bin"));
  const others = list("/usr")
    .filter((name) => name.startsWith("pgsql-"))
    .map((name) => join("/usr", name, "bin"));
  return [...versions, ...others, ...DIRECTORIES].find((directory) => ["initdb", "postgres"].every((program) => isExecutable(join(directory, program))));
}

/**
 * Makes a cluster in a temporary directory and starts a server for it, on a socket in that directory alone, as an unprivileged user when root calls.
 * @param settings of postgresql.conf, e.g. `{ fsync: "off" }`
 */
export async function startPostgres(settings: Readonly<Record<string, string>> = {}): Promise<TestPostgres> {
  const programs = findPostgres();
  if (programs === undefined) throw new Error("there is no PostgreSQL server on this machine: apt-get install postgresql");
  const directory = mkdtempSync(join(tmpdir(), "sealpod-postgres-"));
  const user = unprivileged();
  if (user !== undefined) chownSync(directory, user.uid, user.gid);
  const data = join(directory, "data");
  const options = { cwd: directory, env: { PATH: "/usr/bin:/bin", LC_ALL: "C" }, ...user };
  const made = spawnSync(join(programs, "initdb"), ["-D", data, "-U", "sealpod", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"], {
    ...options,
    encoding: "utf8",
  });
  if (made.status !== 0) {
    rmSync(directory, { recursive: true, force: true });
    throw new Error(`initdb failed: ${made.stderr}${made.error?.message ?? ""}`);
  }
  const flags = Object.entries({ listen_addresses: "", unix_socket_directories: directory, ...settings }).flatMap(([name, value]) => [
    "-c",
    `${name}=${value}`,
  ]);
  const urlOf = (database: string): string => `postgres://sealpod@/${database}?host=${encodeURIComponent(directory)}`;
  let server: ChildProcess | undefined;
  let databases = 0;
  const end = async (signal: "SIGKILL" | "SIGINT"): Promise<void> => {
    const running = server;
    server = undefined;
    if (running === undefined || running.exitCode !== null || running.signalCode !== null) return;
    const exited = new Promise((resolve) => {
      // Closed when the last of its children is gone.
      running.once("close", resolve);
    });
    running.kill(signal);
    await exited;
  };
  const start = async (): Promise<void> => {
    const child = spawn(join(programs, "postgres"), ["-D", data, ...flags], { ...options, stdio: ["ignore", "ignore", "pipe"] });
    server = child;
    await new Promise<void>((resolve, reject) => {
      let log = "";
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        // Read to the end, or the server would stop at a full pipe; kept until it is ready.
        if (log.includes(READY)) return;
        log += text;
        if (log.includes(READY)) resolve();
      });
      child.once("error", reject);
      child.once("close", () => reject(new Error(`the server did not start: ${log}`)));
    });
  };
  try {
    await start();
  } catch (error) {
    rmSync(directory, { recursive: true, force: true });
    throw error;
  }
  return {
    url: urlOf("postgres"),
    get pid() {
      return server?.pid ?? 0;
    },
    createDatabase: async () => {
      databases++;
      const name = `test_${databases}`;
      const child = spawn(join(programs, "psql"), ["-X", "-q", "-h", directory, "-U", "sealpod", "-d", "postgres", "-c", `CREATE DATABASE ${name}`], {
        env: options.env,
        stdio: ["ignore", "ignore", "pipe"],
      });
      let errors = "";
      child.stderr.setEncoding("utf8").on("data", (text: string) => (errors += text));
      const code = await new Promise((resolve) => {
        child.once("close", resolve);
      });
      if (code !== 0) throw new Error(`CREATE DATABASE failed: ${errors}`);
      return urlOf(name);
    },
    kill: async () => end("SIGKILL"),
    start,
    stop: async () => {
      // Fast shutdown: who is connected is cut off.
      await end("SIGINT");
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function unprivileged(): { readonly uid: number; readonly gid: number } | undefined {
  if (userInfo().uid !== 0) return undefined;
  const lines = readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .map((line) => line.split(":"));
  for (const user of USERS) {
    const line = lines.find(([name]) => name === user);
    if (line !== undefined) return { uid: Number(line[2]), gid: Number(line[3]) };
  }
  throw new Error(`PostgreSQL does not run as root, and there is none of the users ${USERS.join(", ")}`);
}

function list(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
