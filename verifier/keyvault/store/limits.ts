/** Versions of one key or secret, as many as the genuine service takes into a backup. What of them fits into one here, {@link MAX_BACKUP} says. */
export const MAX_VERSIONS = 500;

/** Keys of one vault, and secrets of one vault, deleted ones among them: who may create must not fill the disk with names. */
export const MAX_NAMES = 25_000;

/** UTF-8 bytes of a secret's value, as the genuine service has it. */
export const MAX_SECRET_VALUE = 25_600;

/** Access policies of one vault, as the genuine service has it. */
export const MAX_ACCESS_POLICIES = 1024;

/** Role assignments of one vault; a caller's are read at each of its requests. */
export const MAX_ROLE_ASSIGNMENTS = 1024;

/** Rows that one call of a list gives back; pages of the service have at most 25. */
export const MAX_LIST = 1000;

/** Lines of the audit that one call gives back. */
export const MAX_AUDIT_LINES = 1000;
export const DEFAULT_AUDIT_LINES = 100;

/** Characters of what goes into the audit, where a caller can choose them: a refusal must not write more than it reads. Longer text is cut, with an ellipsis. */
export const MAX_AUDIT_TEXT = 256;
export const MAX_AUDIT_REASON = 1024;
export const MAX_AUDIT_AUTHORITY = 1024;

/**
 * Bytes of the conditions of one line, as JSON. A release policy can have 255 conditions with texts of any length, and who may ask for a release may be refused as often as he likes:
 * without this limit every refusal would write some hundred kilobytes. The conditions of a usual policy have two or three.
 */
export const MAX_AUDIT_FINDINGS: number = 8 * 1024;

/**
 * Bytes of a backup: in base64url, with the JSON around it, it fits into the 2 MiB that the service takes as the body of a request unless it is configured otherwise, so that what
 * was backed up can be restored. {@link MAX_VERSIONS} oct, EC or RSA 2048 keys with policies of half a kilobyte fit, and some 300 RSA keys of 4096 bits; of secrets with
 * {@link MAX_SECRET_VALUE} only 45 versions. What does not fit is refused when it is backed up. A backup of the database itself has no such limit.
 */
export const MAX_BACKUP: number = 1_536 * 1024 - 3 * 1024;

/** Days for which what is deleted can be recovered; the figure that every answer carries. */
export const RECOVERABLE_DAYS = 90;

/** Records that one transaction seals again: others wait for it no longer than a few milliseconds. */
export const RESEAL_BATCH = 50;

/** Names that one transaction purges. */
export const PURGE_BATCH = 20;

/** Milliseconds for which a retired wrapping key is kept although no record needs it: replicas may still hold what they read before. */
export const RETIRED_KEY_AGE: number = 60 * 60 * 1000;
