export { parseEncfsArguments, type EncfsArguments, type KeyDerivation, type KeySource, type RemoteFilesystem } from "./arguments.ts";
export { blobClient } from "./blob-client.ts";
export { openBlob, PAGE, STORAGE_RESOURCE, type Blob, type BlobPorts, type BlobRequest, type BlobResponse } from "./blob.ts";
export { BLOCK, BlockCache, type Device } from "./block-cache.ts";
export { ENCFS_ERRORS, EncfsError, type EncfsErrorCode } from "./errors.ts";
export { readHeader } from "./header.ts";
export { volumePassphrase } from "./key.ts";
export { mountImage, type Mounted, type MountPorts, type MountRequest, type Run } from "./mount.ts";
export { serveDevice, type NbdOptions, type NbdServer } from "./nbd.ts";
