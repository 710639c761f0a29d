import { isIPv4 } from "node:net";
import type { LogLevel } from "@sealpod/core";
import { DEFAULT_LIMITS, type ServiceLimits } from "./limits.ts";
import type { Address, ServeOptions } from "./serve.ts";
import {
  addressSetting,
  choiceSetting,
  durationSetting,
  fileSetting,
  integerSetting,
  jsonSetting,
  listSetting,
  parseAddress,
  sizeSetting,
  textSetting,
  type Setting,
} from "./settings.ts";

const HOUR = 60 * 60 * 1000;

/** Where health and metrics are. */
export type OperationsPlace = Address | "main" | "off";

/** Keys that every service has. A type, not an interface: those are no {@link SettingsSchema} to TypeScript. */
export type CommonSettings = {
  readonly listen: Setting<Address>;
  readonly operations: Setting<OperationsPlace | undefined>;
  readonly tls: { readonly cert: Setting<string | undefined>; readonly key: Setting<string | undefined> };
  readonly limits: {
    readonly maxBody: Setting<number>;
    readonly requestTime: Setting<number>;
    readonly maxConcurrent: Setting<number>;
    readonly maxConnections: Setting<number>;
    readonly maxConnectionsPerClient: Setting<number>;
    readonly ratePerSecond: Setting<number>;
    readonly rateBurst: Setting<number>;
    readonly rateClients: Setting<number>;
    readonly trustedProxies: Setting<readonly string[]>;
  };
  readonly log: { readonly level: Setting<LogLevel> };
  readonly stop: { readonly delay: Setting<number>; readonly grace: Setting<number> };
};

/** {@link CommonSettings} that were read. */
export interface CommonValues {
  readonly listen: Address;
  readonly operations: OperationsPlace | undefined;
  readonly tls: { readonly cert: string | undefined; readonly key: string | undefined };
  readonly limits: {
    readonly maxBody: number;
    readonly requestTime: number;
    readonly maxConcurrent: number;
    readonly maxConnections: number;
    readonly maxConnectionsPerClient: number;
    readonly ratePerSecond: number;
    readonly rateBurst: number;
    readonly rateClients: number;
    readonly trustedProxies: readonly string[];
  };
  readonly log: { readonly level: LogLevel };
  readonly stop: { readonly delay: number; readonly grace: number };
}

/** The keys that every service has. @param listen where it listens if nothing is said, on loopback */
export function commonSettings(listen: string): CommonSettings {
  const rate = DEFAULT_LIMITS.rate === "off" ? { perSecond: 0, burst: 1, maxClients: 1 } : DEFAULT_LIMITS.rate;
  return {
    listen: addressSetting("Where the service listens.", { preset: listen }),
    operations: jsonSetting(
      "Where /healthz, /readyz and /metrics are, in plain HTTP: on an address of their own, among the service's own paths, or nowhere. If nothing is said: main when listen is a loopback address, else off, since metrics are not for strangers.",
      'host:port, "main" or "off"',
      {},
      (value) => {
        if (value === "main" || value === "off") return value;
        const address = typeof value === "string" ? parseAddress(value) : undefined;
        if (address === undefined) throw new Error('expected host:port such as 127.0.0.1:9464, "main" or "off"');
        return address;
      },
    ),
    tls: {
      cert: fileSetting(
        "Certificate and chain in PEM, the server's own first. Read again when it changes, and on SIGHUP. Without it the service speaks plain HTTP, for a proxy in front of it.",
        {},
      ),
      key: fileSetting("Private key of the certificate in PEM, without password.", {}),
    },
    limits: {
      maxBody: sizeSetting("Largest body of a request.", { preset: "2MiB" }, 1024, 64 * 1024 ** 2),
      requestTime: durationSetting("Time from a request's headers to the end of its answer.", { preset: "30s" }, 100, HOUR),
      maxConcurrent: integerSetting("Requests at work at once; more are answered 503.", { preset: DEFAULT_LIMITS.maxConcurrent }, 1, 100_000),
      maxConnections: integerSetting("Connections at once.", { preset: 1024 }, 1, 100_000),
      maxConnectionsPerClient: integerSetting("Connections at once of one client; trusted proxies may have all.", { preset: 256 }, 1, 100_000),
      ratePerSecond: integerSetting(
        "Requests per second of one client (an IPv4 address or an IPv6 network of 64 bits); more are answered 429. 0 sets no limit.",
        { preset: rate.perSecond },
        0,
        1_000_000,
      ),
      rateBurst: integerSetting("Requests that a client may make at once after a pause.", { preset: rate.burst }, 1, 1_000_000),
      rateClients: integerSetting("Clients whose rate is remembered.", { preset: rate.maxClients }, 1, 10_000_000),
      trustedProxies: listSetting(
        "Proxies whose X-Forwarded-For names the client.",
        { preset: [] },
        textSetting("A proxy.", { required: true }, "an address or a network such as 10.0.0.0/8"),
      ),
    },
    log: {
      level: choiceSetting("Least severity of what is logged; each request is one line of level info.", ["debug", "info", "warn", "error"], { preset: "info" }),
    },
    stop: {
      delay: durationSetting(
        "After SIGTERM, time for which requests are still taken while /readyz says no, so that load balancers can see it.",
        { preset: "0s" },
        0,
        HOUR,
      ),
      grace: durationSetting("Time for requests in work to end after that.", { preset: "20s" }, 0, HOUR),
    },
  };
}

/** The limits as `createService` takes them. */
export function limitsOf({ limits }: CommonValues): ServiceLimits {
  const { maxBody, requestTime, maxConcurrent, trustedProxies, ratePerSecond, rateBurst, rateClients } = limits;
  const rate = ratePerSecond === 0 ? "off" : { perSecond: ratePerSecond, burst: rateBurst, maxClients: rateClients };
  return { ...DEFAULT_LIMITS, maxBody, requestTime, maxConcurrent, trustedProxies, rate };
}

/** Where health and metrics are: as said, else on the main listener of a loopback address, else nowhere. */
export function operationsOf({ operations, listen }: CommonValues): OperationsPlace {
  return operations ?? (isLoopback(listen.host) ? "main" : "off");
}

/** What `serve` takes. */
export function serveOptionsOf(common: CommonValues): ServeOptions {
  const { listen, tls, limits } = common;
  const operations = operationsOf(common);
  return {
    ...listen,
    maxConnections: limits.maxConnections,
    maxConnectionsPerClient: limits.maxConnectionsPerClient,
    ...(tls.cert === undefined || tls.key === undefined ? {} : { tls: { cert: tls.cert, key: tls.key } }),
    ...(typeof operations === "string" ? {} : { operations }),
  };
}

/** Whether only this machine reaches an address. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIPv4(host) && host.startsWith("127."));
}
