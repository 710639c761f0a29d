import type { JsonObject } from "@sealpod/core";
import { SkrError } from "./errors.ts";
import type { EvidencePorts } from "./evidence.ts";

/** A key to release, and where from, as the caller of the sidecar named them. Nothing in it is checked until a backend's `check`. */
export interface ReleaseRequest {
  /** `maa_endpoint`: who attests. Undefined where the caller names none; a key store that attests by itself needs none. */
  readonly attestationEndpoint: string | undefined;
  /** `akv_endpoint`: who keeps the key. Chooses the backend. */
  readonly storeEndpoint: string;
  readonly kid: string;
  /** The caller's own access token. A secret. */
  readonly accessToken: string | undefined;
}

/** What a backend gets for one request: ports whose `signal` is aborted when the caller is gone or its time is over. */
export interface BackendPorts extends EvidencePorts {
  readonly signal: AbortSignal;
}

/** A kind of service that releases keys to guests that prove what they are. Holds no secret of one release beyond its session. */
export interface ReleaseBackend {
  /** For logs, such as "azure" or "kbs". */
  readonly name: string;
  /** True if it is this backend's to answer for a store endpoint: it looks at the endpoint's scheme alone. */
  serves(storeEndpoint: string): boolean;
  /**
   * Refuses a request that cannot be right, before the processor is asked and a byte is sent.
   * @throws {SkrError} ERR_SKR_REQUEST
   */
  check(request: ReleaseRequest): void;
  /**
   * Proves what this guest is, with evidence that is bound to a key pair made for this session alone.
   * @throws {SkrError} whose message carries the reason of the service that refused
   */
  attest(ports: BackendPorts, request: ReleaseRequest): Promise<ReleaseSession>;
}

/** A guest that has been attested. Its private key is in memory alone and dies with it. */
export interface ReleaseSession {
  /** The attestation token. A secret: it may be exchanged for keys until it expires. */
  readonly token: string;
  /**
   * Has the key released and opens it.
   * @returns the JWK of the private or symmetric key
   * @throws {SkrError} whose message carries the reason of the service that refused
   */
  release(): Promise<JsonObject>;
}

/**
 * Releases a key by the backend that its store endpoint names.
 * @returns the JWK
 * @throws {SkrError} ERR_SKR_REQUEST, or as the backend says
 */
export async function releaseBy(backends: readonly ReleaseBackend[], ports: BackendPorts, request: ReleaseRequest): Promise<JsonObject> {
  const backend = findBackend(backends, request);
  backend.check(request);
  const session = await backend.attest(ports, request);
  ports.logger.log("info", "attested", { backend: backend.name, service: request.attestationEndpoint ?? request.storeEndpoint });
  const jwk = await session.release();
  ports.logger.log("info", "key released", { backend: backend.name, store: request.storeEndpoint, kid: request.kid });
  return jwk;
}

/**
 * The backend that a request's store endpoint names.
 * @throws {SkrError} ERR_SKR_REQUEST
 */
export function findBackend(backends: readonly ReleaseBackend[], request: ReleaseRequest): ReleaseBackend {
  const backend = backends.find((candidate) => candidate.serves(request.storeEndpoint));
  if (backend === undefined) {
    const scheme = /^[a-z0-9+.-]{1,20}:\/\//i.exec(request.storeEndpoint)?.[0];
    throw new SkrError(
      "ERR_SKR_REQUEST",
      `invalid request format: akv_endpoint ${scheme === undefined ? "" : `with ${scheme} `}is none that this sidecar knows`,
      {
        hint: "It is a host name without scheme (Key Vault or Managed HSM), or kbs+https://HOST[:PORT] (Trustee).",
      },
    );
  }
  return backend;
}
