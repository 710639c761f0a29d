export { certcacheApp, type CertcacheAppOptions } from "./app.ts";
export {
  bundleBytes,
  type Bundle,
  type DirectoryBundle,
  encodeBundle,
  exportBundle,
  importBundle,
  type ImportResult,
  MAX_BUNDLE_LENGTH,
  parseBundle,
  readBundleDirectory,
} from "./bundle.ts";
export {
  type CachedEndorsement,
  type CertcacheEvent,
  type CertcacheLimits,
  DEFAULT_CERTCACHE_LIMITS,
  EndorsementCache,
  type EndorsementCacheOptions,
} from "./cache.ts";
export { CERTCACHE_ERRORS, CertcacheError, type CertcacheErrorCode } from "./errors.ts";
export { certcacheService, type CertcacheServiceOptions } from "./service.ts";
export { spacedFetch, type SpacingOptions } from "./spacing.ts";
export { DEFAULT_MAX_ENTRIES, EndorsementStore, type StoredEndorsement, type StoreEntry, type StoreOptions } from "./store.ts";
export { parseTrustRoot, type Trust, underAny, verifyAuthorities, verifyEndorsement } from "./trust.ts";
export { openUpstream, parseUpstream, type UpstreamName, type UpstreamOptions } from "./upstream.ts";
