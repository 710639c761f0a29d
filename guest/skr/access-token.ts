import { messageOf } from "@sealpod/core";
import { SkrError } from "./errors.ts";
import { expectObject, send, type CallPorts } from "./http-client.ts";

/** Azure's link-local metadata service. It speaks plain HTTP; the address never leaves the host. */
const METADATA_TOKEN = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01";

const DEFAULT_AUTHORITY = "https://login.microsoftonline.com/";
const ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/** Milliseconds, as the genuine sidecar waits. */
const TIMEOUT = 7000;

/** The workload identity that Kubernetes gives the pod (specs/attestation.md 8.3). */
export interface WorkloadIdentity {
  readonly clientId: string;
  readonly tenantId: string;
  readonly tokenFile: string;
  /** `AZURE_AUTHORITY_HOST`. */
  readonly authorityHost: string | undefined;
}

/** What getting an access token needs. */
export interface AccessTokenPorts extends CallPorts {
  readonly workloadIdentity: WorkloadIdentity | undefined;
  /** Client id for the metadata service; undefined takes the machine's own identity. */
  readonly clientId: string | undefined;
  /** Text of a file; Kubernetes renews the token in it, so it is read anew each time. */
  readonly readText: (path: string) => Promise<string>;
}

/**
 * An access token for a key store: by the pod's workload identity, or else from the metadata service.
 * @param vault host name of the store; managed HSMs are another resource than vaults
 * @throws {SkrError} ERR_SKR_IDENTITY, ERR_SKR_NETWORK
 */
export async function fetchAccessToken(ports: AccessTokenPorts, vault: string): Promise<string> {
  const resource = vault.includes("managedhsm") ? "https://managedhsm.azure.net" : "https://vault.azure.net";
  const token =
    ports.workloadIdentity === undefined ? await fromMetadata(ports, resource) : await fromWorkloadIdentity(ports, ports.workloadIdentity, resource);
  if (typeof token !== "string" || !isBearerToken(token)) throw new SkrError("ERR_SKR_IDENTITY", "the identity service answered without an access token");
  return token;
}

/** True for text that an Authorization header can carry (RFC 6750 section 2.1): nothing in it can start another header. */
export function isBearerToken(text: string): boolean {
  return text.length <= 64 * 1024 && /^[A-Za-z0-9._~+/-]+=*$/.test(text);
}

async function fromWorkloadIdentity(ports: AccessTokenPorts, identity: WorkloadIdentity, resource: string): Promise<unknown> {
  const authority = authorityUrl(identity.authorityHost ?? DEFAULT_AUTHORITY);
  let assertion: string;
  try {
    assertion = (await ports.readText(identity.tokenFile)).trim();
  } catch (cause) {
    throw new SkrError("ERR_SKR_IDENTITY", `the workload identity's token file ${identity.tokenFile} cannot be read: ${messageOf(cause)}`, { cause });
  }
  const form = new URLSearchParams({
    client_id: identity.clientId,
    scope: `${resource}/.default`,
    grant_type: "client_credentials",
    client_assertion_type: ASSERTION_TYPE,
    client_assertion: assertion,
  });
  const what = `identity service ${authority.host}`;
  const response = await send(
    ports,
    {
      method: "POST",
      url: new URL(`${encodeURIComponent(identity.tenantId)}/oauth2/v2.0/token`, authority).href,
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: form.toString(),
      timeoutMs: TIMEOUT,
    },
    what,
  );
  return expectObject(response, what, "ERR_SKR_IDENTITY")["access_token"];
}

async function fromMetadata(ports: AccessTokenPorts, resource: string): Promise<unknown> {
  const client = ports.clientId === undefined ? "" : `&client_id=${encodeURIComponent(ports.clientId)}`;
  const what = "metadata service";
  const response = await send(
    ports,
    { method: "GET", url: `${METADATA_TOKEN}&resource=${encodeURIComponent(resource)}${client}`, headers: { metadata: "true" }, timeoutMs: TIMEOUT },
    what,
  );
  return expectObject(response, what, "ERR_SKR_IDENTITY")["access_token"];
}

function authorityUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  // Over plain HTTP the host would read the assertion and use it itself.
  if (url?.protocol !== "https:" || url.search !== "" || url.hash !== "" || url.username !== "") {
    throw new SkrError("ERR_SKR_IDENTITY", `AZURE_AUTHORITY_HOST ${JSON.stringify(text.slice(0, 200))} is not an https URL`);
  }
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url;
}
