import { X509Certificate } from "node:crypto";
import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import type { LookupFunction } from "node:net";
import { concatBytes, decodeUtf8 } from "@sealpod/core";
import type { CliContext } from "./context.ts";
import { CliError } from "./errors.ts";
import { readText } from "./workspace.ts";

/** Sends a request and reads the whole answer; redirects are not followed: they would carry tokens away. */
export type NetworkFetch = (
  url: string,
  request: { readonly method: string; readonly headers: Readonly<Record<string, string>>; readonly body?: string | Uint8Array<ArrayBuffer> },
) => Promise<NetworkAnswer>;

/** An answer with its body whole. */
export interface NetworkAnswer {
  readonly status: number;
  readonly text: string;
  /** `x-ms-request-id`: by this a service's audit names the request. */
  readonly requestId: string | undefined;
}

/** Options of {@link networkFetch}. */
export interface NetworkFetchOptions {
  /** PEM of the authorities that TLS trusts in place of the system's. */
  readonly ca: string | undefined;
  readonly signal: AbortSignal;
  /** Bytes. */
  readonly maxAnswer: number;
  /** Milliseconds without a byte; 30 seconds if nothing is said. */
  readonly idleTimeout?: number;
  /** Requests in the clear are sent too: the caller knows where to. */
  readonly plain?: boolean;
  /** Makes an error of what went wrong on the way. */
  readonly failure?: (url: string, cause: Error) => Error;
}

/** Requests over the network. */
export function networkFetch({
  ca,
  signal,
  maxAnswer,
  idleTimeout = 30_000,
  plain = false,
  failure = (_url, cause) => cause,
}: NetworkFetchOptions): NetworkFetch {
  return async (url, { method, headers, body }) =>
    new Promise((resolve, reject) => {
      const bytes = Buffer.from(body ?? "");
      const all = { ...headers, ...(body === undefined ? {} : { "content-length": String(bytes.length) }) };
      const options = { method, headers: all, agent: false, signal, timeout: idleTimeout, ...lookupOf(new URL(url).hostname) } as const;
      const sent = plain && url.startsWith("http:") ? httpRequest(url, options) : httpsRequest(url, { ...options, ...(ca === undefined ? {} : { ca }) });
      const fail = (cause: Error): void => reject(failure(url, cause));
      sent.on("timeout", () => sent.destroy(new Error(`no byte in ${idleTimeout} ms`)));
      sent.on("error", fail);
      sent.on("response", (response) => {
        const chunks: Uint8Array[] = [];
        let length = 0;
        response.on("data", (chunk: Uint8Array) => {
          length += chunk.length;
          if (length > maxAnswer) sent.destroy(new Error(`the answer has more than ${maxAnswer} bytes`));
          else chunks.push(chunk);
        });
        response.on("error", fail);
        response.on("end", () => {
          const id = response.headers["x-ms-request-id"];
          try {
            const text = decodeUtf8(concatBytes(...chunks), "the answer");
            resolve({ status: response.statusCode ?? 0, text, requestId: typeof id === "string" ? id : undefined });
          } catch (cause) {
            fail(cause as Error);
          }
        });
      });
      sent.end(bytes);
    });
}

/** Names below localhost are this machine (RFC 6761 section 6.3); not every resolver knows it. */
function lookupOf(hostname: string): { readonly lookup?: LookupFunction } {
  if (!hostname.endsWith(".localhost")) return {};
  return { lookup: (_hostname, { all }, callback) => (all === true ? callback(null, [{ address: "127.0.0.1", family: 4 }]) : callback(null, "127.0.0.1", 4)) };
}

/** Requests to the laptop's services, which have names that only they know, and an authority of their own. @param send `laptopFetch` of them */
export function laptopNetworkFetch(send: (url: string, init: RequestInit) => Promise<Response>, signal: AbortSignal): NetworkFetch {
  return async (url, { method, headers, body }) => {
    const response = await send(url, { method, headers, signal, ...(body === undefined ? {} : { body }) });
    return { status: response.status, text: await response.text(), requestId: response.headers.get("x-ms-request-id") ?? undefined };
  };
}

/** Whether tokens may be sent to a URL: over TLS, or on this machine. In the clear they are anybody's. */
export function keepsTokens({ protocol, hostname }: URL): boolean {
  return protocol === "https:" || (protocol === "http:" && ["127.0.0.1", "[::1]", "localhost"].includes(hostname));
}

/**
 * PEM text with a certificate, for `--ca`. TLS takes one without, and then trusts nobody; it also takes hundreds of them, and what stands between, so no more is asked here.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function readCertificatePem(path: string, context: CliContext): Promise<string> {
  const { text } = await readText(path, context);
  try {
    // The first; what stands before it is skipped.
    void new X509Certificate(text);
    return text;
  } catch (cause) {
    throw new CliError("ERR_CLI_FILE", `${path} holds no certificate`, { cause, hint: "Expected PEM: -----BEGIN CERTIFICATE-----" });
  }
}

/**
 * One line of a file that holds a token or secret. It is in no message: that would be in the terminal's history.
 * @param what the file should hold, for the message
 * @throws {CliError} ERR_CLI_FILE
 */
export async function readTokenFile(path: string, what: string, context: CliContext): Promise<string> {
  const token = (await readText(path, context)).text.trim();
  if (!/^[\w.~+/=-]+$/.test(token)) throw new CliError("ERR_CLI_FILE", `${path} holds no ${what}: expected one line of letters, digits and -._~+/=`);
  return token;
}
