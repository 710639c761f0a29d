import { type ErrorTable, SealpodError, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link ImportKeyError}. */
export type ImportKeyErrorCode =
  | "ERR_IMPORTKEY_OPTION"
  | "ERR_IMPORTKEY_FILE"
  | "ERR_IMPORTKEY_CONFIG"
  | "ERR_IMPORTKEY_POLICY"
  | "ERR_IMPORTKEY_WEAK"
  | "ERR_IMPORTKEY_KEY"
  | "ERR_IMPORTKEY_TOKEN"
  | "ERR_IMPORTKEY_UNAUTHORIZED"
  | "ERR_IMPORTKEY_FORBIDDEN"
  | "ERR_IMPORTKEY_CONFLICT"
  | "ERR_IMPORTKEY_VAULT";

/** Rows of `author/importkey`. */
export const IMPORTKEY_ERRORS: ErrorTable<ImportKeyErrorCode> = {
  ERR_IMPORTKEY_OPTION: { action: "caller", exit: 2, http: 400, summary: "A needed option is missing, or two do not fit together." },
  ERR_IMPORTKEY_FILE: { action: "caller", exit: 1, http: 404, summary: "An input file cannot be read, or keyfile.bin or private_key.pem cannot be written." },
  ERR_IMPORTKEY_CONFIG: { action: "caller", exit: 1, http: 400, summary: "The configuration lacks a value or has one of the wrong form." },
  ERR_IMPORTKEY_POLICY: { action: "caller", exit: 1, http: 400, summary: "The YAML has no pod with a policy, or several with different policies." },
  ERR_IMPORTKEY_WEAK: { action: "caller", exit: 1, http: 400, summary: "The release policy would give the key to pods that its owner did not choose." },
  ERR_IMPORTKEY_KEY: { action: "caller", exit: 1, http: 400, summary: "The key is not hex, has an unusable length, or is no private key of a supported kind." },
  ERR_IMPORTKEY_TOKEN: { action: "transient", exit: 1, http: 502, summary: "Neither workload identity nor the metadata service gave an access token." },
  ERR_IMPORTKEY_UNAUTHORIZED: { action: "caller", exit: 1, http: 401, summary: "The vault did not accept the access token." },
  ERR_IMPORTKEY_FORBIDDEN: { action: "refused", exit: 1, http: 403, summary: "The vault does not let this identity import keys." },
  ERR_IMPORTKEY_CONFLICT: {
    action: "caller",
    exit: 1,
    http: 409,
    summary: "A deleted key of this name still exists in the vault, or the key's release policy cannot be changed.",
  },
  ERR_IMPORTKEY_VAULT: { action: "transient", exit: 1, http: 502, summary: "The vault cannot be reached, refused the key, or gave an answer that is none." },
};

/** Errors of `author/importkey`; they never hold key material. */
export class ImportKeyError extends SealpodError<ImportKeyErrorCode> {
  constructor(code: ImportKeyErrorCode, message: string, options?: SealpodErrorOptions) {
    super(IMPORTKEY_ERRORS, code, message, options);
  }
}
