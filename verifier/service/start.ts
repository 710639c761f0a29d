import type { Clock, Logger, Random } from "@sealpod/core";
import { isLoopback, limitsOf, operationsOf, serveOptionsOf, type CommonValues } from "./common-settings.ts";
import type { StartedProgram } from "./program.ts";
import type { ServedApp } from "./route-names.ts";
import { serve } from "./serve.ts";
import { createService, type ReadyCheck } from "./service.ts";

/** Options of {@link startService}. */
export interface StartOptions {
  /** In the log and in `build_info`, e.g. `attestation`. */
  readonly name: string;
  readonly version: string;
  readonly app: ServedApp;
  readonly settings: CommonValues;
  readonly ports: {
    readonly clock: Clock;
    readonly random: Random;
    readonly logger: Logger;
    /** The process is this service and nothing else; see `createService`. */
    readonly ownsProcess: boolean;
  };
  /** See {@link ServiceOptions.ready}. */
  readonly ready: Readonly<Record<string, ReadyCheck>>;
  /** What the application works with. It is no longer the caller's: it is disposed of when the service has stopped, or has not started. */
  readonly owned: AsyncDisposableStack;
  /** Fields of the log line that says that it listens. `operations` is an address, `main` or `off`. */
  readonly summary: (places: { readonly url: string; readonly operations: string }) => StartedProgram["summary"];
  /** What SIGHUP reads again besides the TLS files. */
  readonly reload?: () => Promise<void>;
}

/** A service while it listens. */
export interface StartedService extends StartedProgram {
  /** `https://host:port` of the listener, or http; behind a proxy clients have another. */
  readonly url: string;
  readonly operationsUrl: string | undefined;
}

/**
 * Starts a service as {@link CommonValues} say, and stops it in order: `/readyz` says no, requests come in for `stop.delay`, those in work have `stop.grace`.
 * @throws {ServiceError} ERR_SERVICE_LISTEN, ERR_SERVICE_TLS
 */
export async function startService(options: StartOptions): Promise<StartedService> {
  const { name, version, app, settings, ready } = options;
  const { clock, random, logger, ownsProcess } = options.ports;
  await using stack = options.owned.move();
  const place = operationsOf(settings) === "main" ? "main" : "off";
  const service = createService({
    name,
    version,
    app,
    logger,
    clock,
    random,
    limits: limitsOf(settings),
    operations: place === "main" ? "main" : "separate",
    ready,
    replaceGlobals: ownsProcess,
  });
  const server = await serve(service, serveOptionsOf(settings));
  const { url, operationsUrl } = server;
  if (settings.tls.cert === undefined && !isLoopback(settings.listen.host))
    logger.log("warn", "the service speaks plain HTTP on an address that others reach: put a proxy with TLS in front of it", { url });

  const owned = stack.move();
  let stopping: Promise<void> | undefined;
  const stop = async (): Promise<void> => {
    service.retire();
    if (settings.stop.delay > 0) await new Promise((resolve) => void setTimeout(resolve, settings.stop.delay));
    await server.stop(settings.stop.grace);
    await owned.disposeAsync();
  };
  return {
    url,
    operationsUrl,
    summary: options.summary({ url, operations: operationsUrl ?? place }),
    async reload() {
      await server.reload();
      await options.reload?.();
    },
    async stop() {
      stopping ??= stop();
      return stopping;
    },
  };
}
