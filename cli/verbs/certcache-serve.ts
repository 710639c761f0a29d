import { once } from "node:events";
import { certcacheService } from "@sealpod/certcache";
import { serve } from "@sealpod/service";
import { addressOf, openStore, requestOfFlags, serviceLoggerOf, type StoreFlags, trustOf, type UpstreamFlags, upstreamsOf } from "../certcache/session.ts";
import { EXIT, VERSION } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { pathOf } from "../workspace.ts";

interface Options extends StoreFlags, UpstreamFlags {
  readonly listen: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly operations?: string;
  readonly thimChipId?: string;
  readonly thimTcb?: string;
}

/** Milliseconds for what is in work when the service is asked to end. */
const GRACE = 5000;

/** `sealpod certcache serve`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const address = addressOf("--listen", options.listen);
  const operations = options.operations === undefined ? undefined : addressOf("--operations", options.operations);
  if ((options.tlsCert === undefined) !== (options.tlsKey === undefined))
    throw new CliError("ERR_CLI_USAGE", "--tls-cert and --tls-key are given together or not at all");
  const logger = serviceLoggerOf(options, context);
  const upstreams = upstreamsOf(options, context, logger);
  const trust = await trustOf(options, context);
  const store = await openStore(options, context, logger, "make");
  const thim = thimOf(options);
  const service = certcacheService({
    store,
    roots: trust.roots,
    upstreams,
    clock: context.clock,
    random: context.random,
    logger,
    version: VERSION,
    // Metrics tell strangers how much a service is used; on loopback there are none.
    operations: operations === undefined && isLoopback(address.host) ? "main" : "separate",
    ...(thim !== undefined && { thim }),
  });
  const server = await serve(service, {
    ...address,
    ...(operations !== undefined && { operations }),
    ...(options.tlsCert !== undefined &&
      options.tlsKey !== undefined && { tls: { cert: pathOf(options.tlsCert, context), key: pathOf(options.tlsKey, context) } }),
  });
  const roots = [...new Set(trust.roots.map(({ name }) => name))];
  if (options.json === true) {
    context.stdout.write(
      `${JSON.stringify({ url: server.url, operationsUrl: server.operationsUrl, directory: store.directory, entries: store.count, upstreams: upstreams.map(({ name }) => name), trust: roots })}\n`,
    );
  } else {
    context.stdout.write(
      [
        `certificate cache  ${server.url}${server.operationsUrl === undefined ? "" : ` (operations ${server.operationsUrl})`}`,
        `directory          ${store.directory} (${store.count} certificates)`,
        `upstreams          ${upstreams.map(({ name }) => name).join(", ") || "none: only what was imported"}`,
        `trusted roots      ${roots.map((name) => (name === "amd" ? name : `${name} (EMULATED: protects nothing)`)).join(", ")}`,
        "",
      ].join("\n"),
    );
  }
  if (!context.signal.aborted) await once(context.signal, "abort");
  await server.stop(GRACE);
  return EXIT.ok;
};

function thimOf({ thimChipId, thimTcb }: Options): ReturnType<typeof requestOfFlags> | undefined {
  if (thimChipId === undefined && thimTcb === undefined) return undefined;
  if (thimChipId === undefined || thimTcb === undefined) throw new CliError("ERR_CLI_USAGE", "--thim-chip-id and --thim-tcb are given together or not at all");
  return requestOfFlags({ chipId: "--thim-chip-id", tcb: "--thim-tcb" }, thimChipId, thimTcb);
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host);
}
