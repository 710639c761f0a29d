import type { Clock, Logger, Random } from "@sealpod/core";
import type { ImageSourceOptions } from "../image-source.ts";

/** Options of {@link openRegistry}. */
export interface RegistryOptions extends ImageSourceOptions {
  /** Registries, as `host` or `host:port`, that are spoken to in plain HTTP. */
  readonly insecureRegistries?: readonly string[];
  /** Mirrors by registry (e.g. `docker.io`), each as `host[:port][/prefix]`: tried in order, then the registry itself. */
  readonly mirrors?: ReadonlyMap<string, readonly string[]>;
  /** Path of Docker's `config.json`; none means no credentials. A file that is not there is the same as none. */
  readonly dockerConfig?: string;
  /** Milliseconds without an answer or a byte after which a connection is given up. Default: a minute. */
  readonly stallTimeout?: number;
  /** How often a request is repeated after 429, 5xx and failed connections. Default: 5; mirrors get 1. */
  readonly retries?: number;
  /** Ends everything that the client does, at once and with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** What a credential helper did. */
export interface CredentialHelperResult {
  readonly exitCode: number;
  /** Its standard output: the credentials, or a message. */
  readonly stdout: string;
}

/** The edges of the registry client. */
export interface RegistryPorts {
  /** The fetch of the web. It gets `redirect: "manual"` and must hand over 3xx answers as they are, as Node's does. */
  fetch(url: string, init: RequestInit): Promise<Response>;
  /** The whole file, or undefined if there is none; rejects if it has more than `limit` bytes. */
  readFile(path: string, limit: number): Promise<Uint8Array | undefined>;
  /** Runs `docker-credential-NAME get` with the server on standard input, with a time limit; rejects if it cannot run. */
  runCredentialHelper(name: string, server: string): Promise<CredentialHelperResult>;
  /** Resolves after `ms` milliseconds; settles at once, either way, when the signal is aborted. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}
