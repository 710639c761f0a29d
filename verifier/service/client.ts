import { BlockList, isIP, isIPv4, isIPv6 } from "node:net";
import { ServiceError } from "./errors.ts";

/** Proxies in a row that are believed; a longer list is somebody's game with our time. */
const MAX_HOPS = 32;

/**
 * Who an address is to the rate limit: IPv4 as it is (also when written as IPv6), IPv6 as its network of 64 bits, since a host has all the
 * addresses of that. What is no address is `unknown`.
 */
export function clientOf(address: string | undefined): string {
  const plain = address?.split("%", 1)[0] ?? "";
  if (isIPv4(plain)) return plain;
  if (!isIPv6(plain)) return "unknown";
  const groups = groupsOf(plain);
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) return [6, 7].map((at) => dotted(groups[at] ?? 0)).join(".");
  const network = groups
    .slice(0, 4)
    .map((group) => group.toString(16))
    .join(":");
  return network === "0:0:0:0" ? "::/64" : `${network}::/64`;
}

/** The proxies whose word about the client is taken. */
export class TrustedProxies {
  readonly #list = new BlockList();
  readonly isEmpty: boolean;

  /**
   * @param proxies addresses and networks such as `10.0.0.0/8`
   * @throws {ServiceError} ERR_SERVICE_ARGUMENT
   */
  constructor(proxies: readonly string[]) {
    this.isEmpty = proxies.length === 0;
    for (const text of proxies) {
      const [address = "", prefix, ...rest] = text.split("/");
      const family = isIP(address) === 4 ? "ipv4" : "ipv6";
      const bits = prefix === undefined ? undefined : /^\d{1,3}$/.test(prefix) ? Number(prefix) : Number.NaN;
      if (isIP(address) === 0 || rest.length > 0 || (bits !== undefined && !(bits <= (family === "ipv4" ? 32 : 128))))
        throw new ServiceError("ERR_SERVICE_ARGUMENT", `the trusted proxy ${JSON.stringify(text.slice(0, 100))} is no address or network such as 10.0.0.0/8`);
      if (bits === undefined) this.#list.addAddress(address, family);
      else this.#list.addSubnet(address, bits, family);
    }
  }

  /** Whether the address is that of a proxy. */
  has(address: string): boolean {
    const plain = address.split("%", 1)[0] ?? "";
    const version = isIP(plain);
    if (version === 0) return false;
    if (this.#list.check(plain, version === 4 ? "ipv4" : "ipv6")) return true;
    // An IPv4 peer of a socket that listens on both.
    const mapped = version === 6 ? clientOf(plain) : plain;
    return version === 6 && isIPv4(mapped) && this.#list.check(mapped, "ipv4");
  }

  /**
   * The client of a request: the last address in `X-Forwarded-For` that is not a proxy of ours. Everything left of it was written by that client.
   * @param peer the other end of the connection
   */
  clientOf(peer: string | undefined, forwardedFor: string | undefined): string {
    if (this.isEmpty || forwardedFor === undefined || peer === undefined || !this.has(peer)) return clientOf(peer);
    let last = peer;
    const hops = forwardedFor.split(",");
    for (let at = hops.length - 1; at >= Math.max(0, hops.length - MAX_HOPS); at--) {
      const address = withoutPort((hops[at] ?? "").trim());
      // A proxy that writes no address (`unknown`, a name) is the last that is known.
      if (isIP(address) === 0) break;
      last = address;
      if (!this.has(address)) break;
    }
    return clientOf(last);
  }
}

/** Some proxies add the port: `192.0.2.1:5000`, `[2001:db8::1]:5000`. */
function withoutPort(text: string): string {
  return /^\[([^\]]*)\](?::\d+)?$/.exec(text)?.[1] ?? /^(\d+\.\d+\.\d+\.\d+):\d+$/.exec(text)?.[1] ?? text;
}

/** The eight numbers of a valid IPv6 address. */
function groupsOf(address: string): readonly number[] {
  const side = (text: string): number[] =>
    text === ""
      ? []
      : text.split(":").flatMap((part) => {
          if (!part.includes(".")) return [Number.parseInt(part, 16)];
          const [a = 0, b = 0, c = 0, d = 0] = part.split(".").map(Number);
          return [a * 256 + b, c * 256 + d];
        });
  const [left = "", right] = address.split("::");
  const head = side(left);
  const tail = right === undefined ? [] : side(right);
  return [...head, ...Array.from({ length: Math.max(0, 8 - head.length - tail.length) }, () => 0), ...tail];
}

function dotted(group: number): string {
  return `${group >> 8}.${group & 0xff}`;
}
