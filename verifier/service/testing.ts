import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import type { IncomingHttpHeaders } from "node:http";
import { request, type RequestOptions } from "node:https";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";

/** Node keeps here what it has made of the sources: tests start the same few programs some two hundred times. */
const COMPILED = join(import.meta.dirname, "../../build/compiled");

/** A line of a service's log. */
export type LogLine = Readonly<Record<string, unknown>>;

/** A service in a process of its own, for tests. */
export class ServiceProcess {
  readonly child: ChildProcess;
  /** Its log. What it prints besides is in {@link stdout} alone. */
  readonly lines: LogLine[] = [];
  stderr = "";
  stdout = "";
  readonly exited: Promise<{ readonly code: number | null; readonly signal: string | null }>;
  #read = 0;
  #isOver = false;
  #wake: () => void = () => undefined;

  /** @param main path of its `main.ts` */
  constructor(main: string, args: readonly string[], env: Readonly<Record<string, string | undefined>>) {
    this.child = spawn(process.execPath, [main, ...args], { stdio: ["ignore", "pipe", "pipe"], env: { NODE_COMPILE_CACHE: COMPILED, ...env } });
    this.child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.stderr += text;
    });
    this.child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.stdout += text;
      for (let end = this.stdout.indexOf("\n", this.#read); end !== -1; end = this.stdout.indexOf("\n", this.#read)) {
        const line = this.stdout.slice(this.#read, end);
        this.#read = end + 1;
        if (line.startsWith('{"')) this.lines.push(JSON.parse(line) as LogLine);
      }
      this.#wake();
    });
    this.exited = new Promise((resolve) => {
      this.child.on("close", (code, signal) => {
        this.#isOver = true;
        this.#wake();
        resolve({ code, signal });
      });
    });
  }

  /** Until a line of the log is so. @throws {Error} if the process ends before */
  async until(isSo: (line: LogLine) => boolean): Promise<LogLine> {
    for (;;) {
      const found = this.lines.find(isSo);
      if (found !== undefined) return found;
      if (this.#isOver) throw new Error(`the service ended: ${this.stderr}${this.stdout}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Until it listens. @returns the line that says so */
  async started(): Promise<LogLine> {
    return this.until(({ msg }) => msg === "listening");
  }

  /** SIGTERM. @throws {Error} if it does not end as asked */
  async end(): Promise<void> {
    this.child.kill("SIGTERM");
    const { code, signal } = await this.exited;
    if (code !== 0) throw new Error(`the service ended with ${code ?? signal}: ${this.stderr}${this.stdout.slice(-2000)}`);
  }

  /** SIGKILL. */
  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.exited;
  }
}

/** An answer of a service. */
export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly json: () => Readonly<Record<string, unknown>>;
}

/** One request over TLS; rejects if the connection breaks. A body is JSON unless a header says something else. */
export async function ask(options: Omit<RequestOptions, "headers"> & { readonly headers?: Readonly<Record<string, string>> }, body?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const ofBody = body === undefined ? {} : { "content-type": "application/json", "content-length": String(Buffer.byteLength(body)) };
    const outgoing = request({ ...options, headers: { ...ofBody, ...options.headers } }, (incoming) => {
      const chunks: Buffer[] = [];
      incoming.on("data", (chunk: Buffer) => void chunks.push(chunk));
      incoming.on("error", reject);
      incoming.on("end", () => {
        const text = Buffer.concat(chunks).toString();
        resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, text, json: () => JSON.parse(text) as Readonly<Record<string, unknown>> });
      });
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

/** Makes a certificate for localhost, with the program `openssl`. @param base path of its files, `base.key` and `base.crt` */
export function makeLocalCertificate(base: string, commonName: string): void {
  const options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
  execFileSync("openssl", ["req", "-x509", ...options, "-subj", `/CN=${commonName}`, "-keyout", `${base}.key`, "-out", `${base}.crt`], { stdio: "ignore" });
}

/** A port on which nobody listens: where a configuration names the port that it listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
