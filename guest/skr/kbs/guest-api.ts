import { encodeJson, encodeUtf8, fromBase64, isSealpodError, messageOf, type JsonObject, type Logger } from "@sealpod/core";
import { withHint } from "../app.ts";
import type { BackendPorts } from "../backend.ts";
import { SkrError } from "../errors.ts";
import type { RequestGate } from "../request-gate.ts";
import { attestToKbs, evidenceOver, type KbsOptions } from "./kbs-client.ts";
import { parseResource } from "./resource-uri.ts";
import { unsealSecret } from "./sealed-secret.ts";

/** REPORT_DATA has 64 bytes. */
const MAX_RUNTIME_DATA = 64;

/** A request to the guest's API. */
export interface GuestApiRequest {
  readonly method: string;
  /** Path without query. */
  readonly path: string;
  /** The query, without the question mark. */
  readonly query: string;
  readonly signal?: AbortSignal;
}

/** Its answer: bytes as they are. */
export interface GuestApiResponse {
  readonly status: number;
  readonly contentType: string;
  readonly body: Uint8Array;
}

/** The guest's API. Never rejects. */
export type GuestApi = (request: GuestApiRequest) => Promise<GuestApiResponse>;

/** Options of {@link guestApi}. */
export interface GuestApiOptions extends KbsOptions {
  /** Told why requests fail. */
  readonly logger: Logger;
}

/**
 * The API that CoCo's guests have at 127.0.0.1:8006 (specs/attestation.md 9.5), as far as it concerns attestation: `GET /cdh/resource/{repository}/{type}/{tag}`, `GET
 * /aa/token?token_type=kbs`, `GET /aa/evidence?runtime_data=…[&encoding=base64]`. It trusts its callers as the containers of one pod trust each other, so it must listen on localhost alone.
 *
 * A resource goes out as the key broker keeps it, also one that is a sealed secret: CoCo's API has no path that unseals, its agents do that over ttRPC ({@link secretUnsealer}).
 * @param gate bounds the requests at work, and their time
 * @param base `https://HOST[:PORT]` of the key broker
 */
export function guestApi(gate: RequestGate, base: string, options: GuestApiOptions): GuestApi {
  return async ({ method, path, query, signal }) => {
    try {
      if (method !== "GET") throw new SkrError("ERR_SKR_METHOD", `${path.slice(0, 100)} takes GET, not ${method.slice(0, 20)}`);
      const parameters = new URLSearchParams(query);
      const resource = /^\/cdh\/resource\/(.*)$/.exec(path)?.[1];
      if (resource !== undefined) {
        const parsed = parseResource(resource);
        return {
          status: 200,
          contentType: "application/octet-stream",
          body: await gate(signal, async (ports) => (await attestToKbs(ports, base, options)).fetchResource(parsed)),
        };
      }
      if (path === "/aa/token") return json(await gate(signal, async (ports) => tokenOf(ports, base, parameters, options)));
      if (path === "/aa/evidence") return json(await gate(signal, async (ports) => evidenceOver(ports, runtimeDataOf(parameters))));
      throw new SkrError("ERR_SKR_NO_SUCH_PAGE", `no such page: GET ${path.slice(0, 100)}`, {
        hint: "There are /cdh/resource/REPOSITORY/TYPE/TAG, /aa/token?token_type=kbs and /aa/evidence?runtime_data=…",
      });
    } catch (error) {
      // Callers look at the status alone: what is not theirs to mend is 500, as CoCo's own server has it.
      const own = isSealpodError(error);
      const status = own && [400, 404, 405, 413, 503].includes(error.row.http) ? error.row.http : 500;
      // What went wrong inside is for the log alone; its text was not written for a caller.
      options.logger.log(own ? "warn" : "error", "request failed", {
        path: path.slice(0, 100),
        ...(own ? { code: error.code } : {}),
        problem: messageOf(error),
      });
      return { status, contentType: "application/json", body: encodeUtf8(JSON.stringify({ error: own ? withHint(error) : "the request failed" })) };
    }
  };
}

/**
 * Unseals secrets of CoCo by resources of a key broker: one attestation for each secret, which brings the signer's key and what the secret names.
 * @param base `https://HOST[:PORT]` of the key broker
 * @returns a function that throws as `unsealSecret` and `attestToKbs` do
 */
export function secretUnsealer(gate: RequestGate, base: string, options: KbsOptions = {}): (sealed: string, signal?: AbortSignal) => Promise<Uint8Array> {
  return async (sealed, signal) =>
    gate(signal, async (ports) => {
      let session: ReturnType<typeof attestToKbs> | undefined;
      return unsealSecret(sealed, async (resource) => {
        // Not before the secret is seen to be one.
        session ??= attestToKbs(ports, base, options);
        return (await session).fetchResource(resource);
      });
    });
}

async function tokenOf(ports: BackendPorts, base: string, parameters: URLSearchParams, options: KbsOptions): Promise<JsonObject> {
  const type = parameters.get("token_type");
  if (type !== "kbs") throw new SkrError("ERR_SKR_REQUEST", `token_type is ${JSON.stringify((type ?? "").slice(0, 40))}, expected "kbs"`);
  const { token, privateKey } = await attestToKbs(ports, base, options);
  return { token, tee_keypair: privateKey.export({ format: "pem", type: "pkcs8" }).toString() };
}

/** REPORT_DATA from the query: the text itself, or the bytes that it is base64 of, filled with zeros. */
function runtimeDataOf(parameters: URLSearchParams): Uint8Array {
  const text = parameters.get("runtime_data");
  const encoding = parameters.get("encoding");
  if (text === null) throw new SkrError("ERR_SKR_REQUEST", "runtime_data is missing");
  if (encoding !== null && encoding !== "base64") throw new SkrError("ERR_SKR_REQUEST", 'encoding is not "base64"');
  let bytes: Uint8Array;
  try {
    // A plus sign in a query is a space.
    bytes = encoding === null ? encodeUtf8(text) : fromBase64(text.replaceAll(" ", "+"), "runtime_data");
  } catch (cause) {
    throw new SkrError("ERR_SKR_REQUEST", messageOf(cause), { cause });
  }
  if (bytes.length > MAX_RUNTIME_DATA)
    throw new SkrError("ERR_SKR_REQUEST", `runtime_data has ${bytes.length} bytes, more than the ${MAX_RUNTIME_DATA} of REPORT_DATA`);
  const reportData = new Uint8Array(MAX_RUNTIME_DATA);
  reportData.set(bytes);
  return reportData;
}

function json(value: JsonObject): GuestApiResponse {
  return { status: 200, contentType: "application/json", body: encodeUtf8(encodeJson(value)) };
}
