import type { Up } from "@sealpod/services";
import { laptopNetworkFetch, networkFetch } from "../service-fetch.ts";

/** A request to a vault or an identity service. */
export interface VaultFetchRequest {
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** An answer with its body whole. */
export interface VaultFetchAnswer {
  readonly status: number;
  readonly text: string;
  /** `x-ms-request-id`: by this the vault's audit names the request. */
  readonly requestId?: string | undefined;
}

/** Sends a request; redirects are not followed: they would carry tokens away. */
export type VaultFetch = (url: string, request: VaultFetchRequest) => Promise<VaultFetchAnswer>;

/** Largest answer that is read: a backup of a key with all its versions. */
const MAX_ANSWER = 16 * 1024 * 1024;
/** Milliseconds without a byte: an RSA key of 4096 bits takes a vault seconds. */
const IDLE_TIMEOUT = 60_000;

/** Requests to the laptop's services, which have names that only they know, and an authority of their own. */
export function laptopVaultFetch(up: Up, signal: AbortSignal): VaultFetch {
  return async (url, request) => {
    const { laptopFetch } = await import("@sealpod/services");
    return laptopNetworkFetch(laptopFetch(up), signal)(url, request);
  };
}

/** Requests over TLS with the system's authorities, or the one that is given. */
export function systemVaultFetch(ca: string | undefined, signal: AbortSignal): VaultFetch {
  return networkFetch({ ca, signal, maxAnswer: MAX_ANSWER, idleTimeout: IDLE_TIMEOUT });
}
