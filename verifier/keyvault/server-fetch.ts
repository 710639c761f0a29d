import { X509Certificate } from "node:crypto";
import { Agent, request } from "node:https";
import { Readable } from "node:stream";
import { getCACertificates } from "node:tls";
import type { Fetch } from "./issuer-keys.ts";

/** Connections to one host that stay open: keys are fetched seldom. */
const MAX_IDLE = 1;
/** What TLS says when nobody whom it trusts vouches for the other end. */
const UNTRUSTED = new Set([
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
  "CERT_SIGNATURE_FAILURE",
]);

/**
 * Fetches documents over TLS from whom these certificates vouch for, or those that Node trusts by itself. It follows no redirects, and sends no bodies.
 * @param certificates PEM, one certificate each
 */
export function trustingFetch(certificates: readonly string[]): Fetch {
  const known = getCACertificates("default");
  // An issuer is looked for by its name, and the first of a name is taken: two self-signed ones for localhost would be in each other's way.
  const agents = bySubject(certificates).map((set) => new Agent({ ca: [...known, ...set], maxFreeSockets: MAX_IDLE }));
  return async (url, init) => {
    let problem: unknown;
    for (const agent of agents) {
      try {
        return await send(url, init, agent);
      } catch (error) {
        if (!(error instanceof Error && "code" in error && UNTRUSTED.has(String(error.code)))) throw error;
        problem = error;
      }
    }
    throw problem;
  };
}

/** The first of each subject, the second of each, and so on. */
function bySubject(certificates: readonly string[]): readonly (readonly string[])[] {
  const sets: string[][] = [[]];
  const seen = new Map<string, number>();
  for (const certificate of certificates) {
    const { subject } = new X509Certificate(certificate);
    const at = seen.get(subject) ?? 0;
    seen.set(subject, at + 1);
    (sets[at] ??= []).push(certificate);
  }
  return sets;
}

async function send(url: string, init: RequestInit, agent: Agent): Promise<Response> {
  return new Promise((resolve, reject) => {
    const headers = Object.fromEntries(new Headers(init.headers));
    const { signal } = init;
    const outgoing = request(
      url,
      { method: init.method ?? "GET", headers, agent, ...(signal === undefined || signal === null ? {} : { signal }) },
      (incoming) => {
        const status = incoming.statusCode ?? 0;
        // Statuses that a Response has no body for, or is none of: nothing of what is fetched here comes with one.
        if (status < 200 || status === 204 || status === 205 || status === 304) {
          incoming.destroy();
          reject(new Error(`status ${status}, expected a document`));
          return;
        }
        resolve(new Response(Readable.toWeb(incoming) as ReadableStream, { status }));
      },
    );
    outgoing.on("error", reject);
    outgoing.end();
  });
}
