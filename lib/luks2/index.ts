export { LUKS2_ERRORS, Luks2Error, type Luks2ErrorCode } from "./errors.ts";
export { MAX_HEADERS_LENGTH, parseHeader, type ForeignKeyslot, type Keyslot, type Luks2Header } from "./header.ts";
export { cryptSectors } from "./sectors.ts";
export { createVolume, openVolumeKey, type NewVolume, type VolumeRequest } from "./volume.ts";
