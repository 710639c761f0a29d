import { pbkdf2Sync, timingSafeEqual } from "node:crypto";
import { newUuid, toBase64, type Random } from "@sealpod/core";
import { merge, split, STRIPES } from "./antiforensic.ts";
import { Luks2Error } from "./errors.ts";
import { encodeHeader, type Keyslot, type Luks2Header } from "./header.ts";
import { cryptSectors, XTS_KEY_LENGTH } from "./sectors.ts";

/** Rounds of PBKDF2 that a header may ask for with all of its keyslots: some seconds of work. cryptsetup's own benchmark asks for a million or two for one. */
const MAX_ITERATIONS = 20_000_000;
/** The key is 256 random bits, so that stretching it buys nothing; this is what the known tool writes. */
const ITERATIONS = 1000;
const HEADER_SIZE = 16_384;
/** What cryptsetup leaves before the data: room for 32 keyslots. */
const DATA_OFFSET = 16 * 1024 * 1024;
const SECTOR = 512;
/** Keyslots start at multiples of this. */
const ALIGNMENT = 4096;
const MIN_PASSPHRASE = 16;
const MAX_PASSPHRASE = 8 * 1024 * 1024;

/** What {@link createVolume} makes. */
export interface NewVolume {
  /** The first {@link dataOffset} bytes of the volume. */
  readonly header: Uint8Array;
  readonly dataOffset: number;
  readonly sectorSize: 4096;
  /** 64 bytes; the caller overwrites it after use. */
  readonly volumeKey: Uint8Array;
  readonly uuid: string;
}

/** What a new volume is made with. */
export interface VolumeRequest {
  /** What opens it: 32 random bytes by custom. */
  readonly passphrase: Uint8Array;
  readonly random: Random;
  readonly label?: string;
}

/**
 * Makes the header of a LUKS2 volume with one keyslot: aes-xts-plain64 with 512 bits, sectors of 4096 bytes, PBKDF2 with SHA-256 (specs/attestation.md 5.7).
 * @throws {Luks2Error} ERR_LUKS2_ARGUMENT for a passphrase of fewer than 16 bytes: PBKDF2 with 1000 rounds protects random keys alone
 */
export function createVolume({ passphrase, random, label = "" }: VolumeRequest): NewVolume {
  if (passphrase.length < MIN_PASSPHRASE || passphrase.length > MAX_PASSPHRASE) {
    throw new Luks2Error("ERR_LUKS2_ARGUMENT", `the key has ${passphrase.length} bytes, expected ${MIN_PASSPHRASE} random ones or more, 32 by custom`, {
      hint: "Make one with: openssl rand -out keyfile.bin 32",
    });
  }
  const volumeKey = random.bytes(XTS_KEY_LENGTH);
  const [slotSalt, digestSalt] = [random.bytes(32), random.bytes(32)];
  const slotKey = pbkdf2Sync(passphrase, slotSalt, ITERATIONS, XTS_KEY_LENGTH, "sha256");
  const material = cryptSectors("encrypt", slotKey, 0, split(volumeKey, random), SECTOR);
  slotKey.fill(0);
  const areaOffset = 2 * HEADER_SIZE;
  const areaSize = Math.ceil(material.length / ALIGNMENT) * ALIGNMENT;
  const uuid = newUuid(random);
  const metadata = {
    keyslots: {
      "0": {
        type: "luks2",
        key_size: XTS_KEY_LENGTH,
        af: { type: "luks1", stripes: STRIPES, hash: "sha256" },
        area: { type: "raw", offset: String(areaOffset), size: String(areaSize), encryption: "aes-xts-plain64", key_size: XTS_KEY_LENGTH },
        kdf: { type: "pbkdf2", hash: "sha256", iterations: ITERATIONS, salt: toBase64(slotSalt) },
      },
    },
    tokens: {},
    segments: {
      "0": { type: "crypt", offset: String(DATA_OFFSET), size: "dynamic", iv_tweak: "0", encryption: "aes-xts-plain64", sector_size: 4096 },
    },
    digests: {
      "0": {
        type: "pbkdf2",
        keyslots: ["0"],
        segments: ["0"],
        hash: "sha256",
        iterations: ITERATIONS,
        salt: toBase64(digestSalt),
        digest: toBase64(pbkdf2Sync(volumeKey, digestSalt, ITERATIONS, 32, "sha256")),
      },
    },
    config: { json_size: String(HEADER_SIZE - 4096), keyslots_size: String(DATA_OFFSET - areaOffset) },
  };
  const header = new Uint8Array(DATA_OFFSET);
  header.set(encodeHeader({ label, uuid, salts: [random.bytes(64), random.bytes(64)], metadata, size: HEADER_SIZE }));
  header.set(material, areaOffset);
  return { header, dataOffset: DATA_OFFSET, sectorSize: 4096, volumeKey, uuid };
}

/**
 * Opens the volume key with a passphrase.
 * @param read bytes of the volume: of the keyslots' areas
 * @returns 64 bytes; the caller overwrites them after use
 * @throws {Luks2Error} ERR_LUKS2_KEY if it opens no keyslot, ERR_LUKS2_UNSUPPORTED if none can be read here, ERR_LUKS2_LIMIT, ERR_LUKS2_HEADER
 */
export async function openVolumeKey(
  header: Luks2Header,
  passphrase: Uint8Array,
  read: (offset: number, length: number) => Promise<Uint8Array>,
): Promise<Uint8Array> {
  if (header.keyslots.length === 0) {
    const problems = header.foreign.map(({ id, problem }) => `keyslot ${id}: ${problem}`).join("; ");
    throw new Luks2Error("ERR_LUKS2_UNSUPPORTED", `the volume has no keyslot that is read here${problems === "" ? "" : `: ${problems}`}`);
  }
  const { digest } = header;
  const slots = header.keyslots.filter(({ id }) => digest.keyslots.includes(id));
  // Each key is as long as two blocks of SHA-256.
  const rounds = slots.reduce((sum, { kdf }) => sum + 2 * kdf.iterations + digest.iterations, 0);
  if (rounds > MAX_ITERATIONS) throw new Luks2Error("ERR_LUKS2_LIMIT", `the header asks for ${rounds} rounds of PBKDF2, more than ${MAX_ITERATIONS}`);
  for (const slot of slots) {
    const key = await openKeyslot(header, slot, passphrase, read);
    if (key !== undefined) return key;
  }
  throw new Luks2Error("ERR_LUKS2_KEY", `the key opens none of the volume's ${slots.length} keyslots`, {
    hint: "It is the raw bytes of the key file that opens a volume, without a line end.",
  });
}

async function openKeyslot(
  { digest }: Luks2Header,
  slot: Keyslot,
  passphrase: Uint8Array,
  read: (offset: number, length: number) => Promise<Uint8Array>,
): Promise<Uint8Array | undefined> {
  const { iterations, salt } = slot.kdf;
  if (iterations < 1 || digest.iterations < 1) throw new Luks2Error("ERR_LUKS2_HEADER", "the header asks for no round of PBKDF2");
  const length = XTS_KEY_LENGTH * STRIPES;
  const area = await read(slot.offset, length);
  if (area.length !== length) throw new Luks2Error("ERR_LUKS2_HEADER", `keyslot ${slot.id} has ${area.length} bytes, expected ${length}`);
  const slotKey = pbkdf2Sync(passphrase, salt, iterations, XTS_KEY_LENGTH, "sha256");
  const spread = cryptSectors("decrypt", slotKey, 0, area, SECTOR);
  const key = merge(spread, XTS_KEY_LENGTH);
  for (const secret of [slotKey, spread]) secret.fill(0);
  const found = pbkdf2Sync(key, digest.salt, digest.iterations, digest.value.length, "sha256");
  if (timingSafeEqual(found, digest.value)) return key;
  key.fill(0);
  return undefined;
}
