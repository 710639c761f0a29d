/** An IPv4 or IPv6 address. IPv4-mapped IPv6 addresses (`::ffff:10.0.0.1`) are IPv4 addresses, as they are for Go. */
export interface Address {
  readonly bits: 32 | 128;
  readonly value: bigint;
}

/** A network: the addresses whose first `prefix` bits are those of `first`, whose other bits are zero. */
export interface Network {
  readonly bits: 32 | 128;
  readonly first: bigint;
  readonly prefix: number;
}

/** An address before IPv4-mapped ones are taken for IPv4: a prefix counts in the form that was written. */
type Written = Address;

/** The longest text of an address: eight groups of four with an IPv4 address at the end. */
const MAX_LENGTH = 45;

/** Reads an address as Go's `net.ParseIP`: no leading zeros in IPv4, no zones. */
export function parseAddress(text: string): Address | undefined {
  const written = parseWritten(text);
  return written === undefined ? undefined : unmapped(written);
}

/** Reads a network as Go's `net.ParseCIDR`; bits behind the prefix are dropped. */
export function parseNetwork(text: string): Network | undefined {
  const slash = text.indexOf("/");
  if (slash === -1) return undefined;
  const written = parseWritten(text.slice(0, slash));
  const digits = text.slice(slash + 1);
  if (written === undefined || !isDigits(digits) || digits.length > 7) return undefined;
  const prefix = Number(digits);
  if (prefix > written.bits) return undefined;
  const shift = BigInt(written.bits - prefix);
  const first = (written.value >> shift) << shift;
  const address = unmapped({ bits: written.bits, value: first });
  return { bits: address.bits, first: address.value, prefix: address.bits === written.bits ? prefix : prefix - 96 };
}

/** The last address of a network. */
export function lastAddress(network: Network): bigint {
  return network.first + (1n << BigInt(network.bits - network.prefix)) - 1n;
}

/** Text of an address as Go and RFC 5952 have it: the longest run of zero groups is `::`. */
export function formatAddress({ bits, value }: Address): string {
  if (bits === 32) return [24n, 16n, 8n, 0n].map((shift) => String((value >> shift) & 0xffn)).join(".");
  const groups = Array.from({ length: 8 }, (_, at) => Number((value >> BigInt(112 - 16 * at)) & 0xffffn));
  let start = -1;
  let length = 1;
  for (let at = 0; at < 8; at++) {
    let end = at;
    while (end < 8 && groups[end] === 0) end++;
    if (end - at > length) [start, length] = [at, end - at];
    at = Math.max(at, end - 1);
  }
  const hex = (from: number, to: number): string =>
    groups
      .slice(from, to)
      .map((group) => group.toString(16))
      .join(":");
  return start === -1 ? hex(0, 8) : `${hex(0, start)}::${hex(start + length, 8)}`;
}

/** The address of 4 or 16 bytes. */
export function addressOf(bytes: Uint8Array): Address {
  const value = bytes.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  return unmapped({ bits: bytes.length === 4 ? 32 : 128, value });
}

function unmapped(address: Written): Address {
  return address.bits === 128 && address.value >> 32n === 0xffffn ? { bits: 32, value: address.value & 0xffffffffn } : address;
}

function parseWritten(text: string): Written | undefined {
  if (text.length > MAX_LENGTH) return undefined;
  if (!text.includes(":")) {
    const value = parseIpv4(text);
    return value === undefined ? undefined : { bits: 32, value };
  }
  const value = parseIpv6(text);
  return value === undefined ? undefined : { bits: 128, value };
}

function isDigits(text: string): boolean {
  if (text === "") return false;
  for (const char of text) if (char < "0" || char > "9") return false;
  return true;
}

function parseIpv4(text: string): bigint | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  let value = 0n;
  for (const part of parts) {
    if (!isDigits(part) || part.length > 3 || (part.length > 1 && part.startsWith("0")) || Number(part) > 255) return undefined;
    value = (value << 8n) | BigInt(part);
  }
  return value;
}

function parseIpv6(text: string): bigint | undefined {
  const gap = text.indexOf("::");
  if (gap === -1) {
    const groups = parseGroups(text);
    return groups?.length === 8 ? joinGroups(groups) : undefined;
  }
  const head = gap === 0 ? [] : parseGroups(text.slice(0, gap), false);
  const rest = text.slice(gap + 2);
  const tail = rest === "" ? [] : parseGroups(rest);
  // The gap stands for at least one group of zeros.
  if (head === undefined || tail === undefined || head.length + tail.length > 7) return undefined;
  return joinGroups([...head, ...Array<number>(8 - head.length - tail.length).fill(0), ...tail]);
}

/** Groups of 16 bits; the last two may be written as an IPv4 address. */
function parseGroups(text: string, atEnd = true): readonly number[] | undefined {
  const groups: number[] = [];
  const parts = text.split(":");
  for (const [at, part] of parts.entries()) {
    if (atEnd && at === parts.length - 1 && part.includes(".")) {
      const value = parseIpv4(part);
      if (value === undefined) return undefined;
      groups.push(Number(value >> 16n), Number(value & 0xffffn));
      continue;
    }
    if (!isGroup(part)) return undefined;
    groups.push(Number.parseInt(part, 16));
  }
  return groups;
}

function isGroup(text: string): boolean {
  if (text.length < 1 || text.length > 4) return false;
  for (const char of text.toLowerCase()) if (!((char >= "0" && char <= "9") || (char >= "a" && char <= "f"))) return false;
  return true;
}

function joinGroups(groups: readonly number[]): bigint {
  return groups.reduce((value, group) => (value << 16n) | BigInt(group), 0n);
}
