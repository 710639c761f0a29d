/** Numbers that look random and are the same in each run (xorshift32). */
export class TestRandom {
  #state: number;

  /** @param seed not 0 */
  constructor(seed: number) {
    this.#state = seed;
  }

  /** An integer of 0 to `limit` - 1. */
  below(limit: number): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % limit;
  }

  /** One of the items. */
  pick<T>(items: readonly [T, ...T[]]): T {
    return items[this.below(items.length)] ?? items[0];
  }
}

/** Values at which parsers go wrong. */
const EDGES = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x30, 0x2d] as const;

/** A copy with one to four mutations: bits, edge values, runs of them, pieces cut out, repeated, moved, appended. */
export function mutate(seed: Uint8Array, random: TestRandom): Uint8Array {
  let bytes = Uint8Array.from(seed);
  for (let count = 1 + random.below(4); count > 0; count--) {
    const at = random.below(bytes.length + 1);
    const length = random.pick([1, 2, 4, 8, 24, random.below(64)]);
    switch (random.below(7)) {
      case 0:
        if (at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
        break;
      case 1:
        if (at < bytes.length) bytes[at] = random.below(256);
        break;
      case 2:
        bytes.fill(random.pick(EDGES), at, at + length);
        break;
      case 3:
        bytes = joined(bytes.subarray(0, at), bytes.subarray(at + length));
        break;
      case 4:
        bytes = joined(bytes.subarray(0, at), bytes.subarray(at, at + length), bytes.subarray(at));
        break;
      case 5:
        bytes.copyWithin(random.below(bytes.length + 1), at, at + length);
        break;
      default:
        bytes = joined(bytes, new Uint8Array(length).fill(random.pick(EDGES)));
    }
  }
  return bytes;
}

function joined(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.concat(parts));
}
