/** Bytes to change, and where their structure is: a change at a length means more to a parser than one in the middle of a text. */
export interface Seed {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** Offsets of heads: tags and lengths in DER, initial bytes in CBOR. */
  readonly marks: readonly number[];
}

/** Numbers from a seed, the same ones each time (xorshift32): a failure can be played again. */
export class SeededNumbers {
  #state: number;

  constructor(seed: number) {
    // The state must not be zero, and neighbouring seeds should not give neighbouring numbers.
    this.#state = Math.imul(seed | 1, 0x9e3779b1) | 1;
    for (let i = 0; i < 8; i++) this.below(2);
  }

  /** 0 to `limit` - 1. */
  below(limit: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) % limit;
  }

  /** One of the items. */
  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new RangeError("nothing to pick from");
    return item;
  }
}

/** One change; `nest` puts levels around or before what stands at an offset, in the format's own way. */
type Mutation = (bytes: Uint8Array, seed: Seed, numbers: SeededNumbers) => Uint8Array;

function replace(bytes: Uint8Array, at: number, remove: number, insert: Uint8Array): Uint8Array {
  return new Uint8Array(Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at + remove)]));
}

function randomBytes(numbers: SeededNumbers, length: number): Uint8Array {
  return Uint8Array.from({ length }, () => numbers.below(256));
}

/** What stands at the edge of a number's range, where off-by-one errors are. */
const EDGES = [0x00, 0x01, 0x7f, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x88, 0xfe, 0xff];

const MUTATIONS: readonly Mutation[] = [
  // A bit flips.
  (bytes, _seed, numbers) => {
    const at = numbers.below(bytes.length);
    return replace(bytes, at, 1, Uint8Array.of((bytes[at] ?? 0) ^ (1 << numbers.below(8))));
  },
  // Bytes come in, go, or are repeated.
  (bytes, _seed, numbers) => replace(bytes, numbers.below(bytes.length + 1), 0, randomBytes(numbers, 1 + numbers.below(8))),
  (bytes, _seed, numbers) => replace(bytes, numbers.below(bytes.length), 1 + numbers.below(8), new Uint8Array()),
  (bytes, _seed, numbers) => {
    const at = numbers.below(bytes.length);
    return replace(bytes, at, 0, bytes.subarray(at, at + 1 + numbers.below(64)));
  },
  // A head says something else: its neighbours, and the edges of the ranges.
  (bytes, seed, numbers) => {
    const at = Math.min(numbers.pick(seed.marks), bytes.length - 1);
    const old = bytes[at] ?? 0;
    return replace(bytes, at, 1, Uint8Array.of(numbers.pick([old + 1, old - 1, old ^ 0x20, old ^ 0x40, old ^ 0x80, ...EDGES])));
  },
  // A length becomes a huge one.
  (bytes, seed, numbers) => {
    const length = numbers.pick([
      [0x84, 0x7f, 0xff, 0xff, 0xff],
      [0x84, 0xff, 0xff, 0xff, 0xff],
      [0x83, 0x01, 0x00, 0x00],
      [0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ]);
    return replace(bytes, numbers.pick(seed.marks), 1, Uint8Array.from(length));
  },
  // The end is missing.
  (bytes, _seed, numbers) => bytes.slice(0, numbers.below(bytes.length)),
];

/** Bytes that were made from seeds: one to three changes, or the head of one seed with the tail of another, or levels upon levels at a head. */
export function mutate(seeds: readonly Seed[], numbers: SeededNumbers, nest: (inner: Uint8Array, levels: number) => Uint8Array): Uint8Array {
  const seed = numbers.pick(seeds);
  switch (numbers.below(8)) {
    case 0: {
      const other = numbers.pick(seeds);
      const [head, tail] = [numbers.pick(seed.marks), numbers.pick(other.marks)];
      return new Uint8Array(Buffer.concat([seed.bytes.subarray(0, head), other.bytes.subarray(tail)]));
    }
    case 1: {
      const at = numbers.pick(seed.marks);
      return replace(seed.bytes, at, numbers.below(2) * seed.bytes.length, nest(seed.bytes.subarray(at, at + 40), 1 + numbers.below(400)));
    }
    default: {
      let { bytes } = seed;
      for (let changes = 1 + numbers.below(3); changes > 0 && bytes.length > 0; changes--) bytes = numbers.pick(MUTATIONS)(bytes, seed, numbers);
      return bytes;
    }
  }
}

/** How often {@link storm} saw a parser accept and refuse. */
export interface Outcome {
  readonly accepted: number;
  readonly refused: number;
}

/**
 * Feeds a parser mutated seeds. What it throws must be of the given class; any other error, and any error of `check`, comes out with the seed of the
 * numbers, the round and the bytes in hex, which play it again.
 */
export function storm<T>(options: {
  readonly seeds: readonly Seed[];
  readonly rounds: number;
  readonly numbersFrom: number;
  readonly nest: (inner: Uint8Array, levels: number) => Uint8Array;
  readonly parse: (bytes: Uint8Array) => T;
  readonly own: abstract new (...parameters: never[]) => Error;
  readonly check?: (value: T, bytes: Uint8Array) => void;
}): Outcome {
  const numbers = new SeededNumbers(options.numbersFrom);
  let accepted = 0;
  for (let round = 0; round < options.rounds; round++) {
    const bytes = mutate(options.seeds, numbers, options.nest);
    const replay = (cause: unknown): Error =>
      new Error(`seed ${options.numbersFrom}, round ${round}, bytes ${Buffer.from(bytes).toString("hex")}: ${String(cause)}`, { cause });
    let value: T;
    try {
      value = options.parse(bytes);
    } catch (error) {
      if (error instanceof options.own) continue;
      throw replay(error);
    }
    accepted++;
    try {
      options.check?.(value, bytes);
    } catch (error) {
      throw replay(error);
    }
  }
  return { accepted, refused: options.rounds - accepted };
}
