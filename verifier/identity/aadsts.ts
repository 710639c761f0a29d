import type { IdentityErrorCode } from "./errors.ts";

/** One numbered error of Entra ID's token endpoint. */
export interface AadstsRow {
  readonly code: IdentityErrorCode;
  /** RFC 6749 section 5.2. */
  readonly error: "invalid_request" | "invalid_client" | "invalid_scope" | "unauthorized_client" | "unsupported_grant_type" | "invalid_resource";
  readonly status: 400 | 401;
}

/** The numbers this service answers with; clients and people search for them. */
export type AadstsNumber =
  | 50013
  | 50027
  | 70003
  | 70011
  | 70021
  | 90002
  | 90061
  | 500011
  | 700016
  | 700023
  | 700024
  | 700027
  | 700211
  | 700212
  | 700213
  | 900144
  | 900561
  | 7000215
  | 7000218
  | 7000222
  | 9000411;

/** Number to error, as Entra ID pairs them. */
export const AADSTS: Readonly<Record<AadstsNumber, AadstsRow>> = {
  50013: { code: "ERR_IDENTITY_ASSERTION", error: "invalid_client", status: 401 },
  50027: { code: "ERR_IDENTITY_ASSERTION", error: "invalid_client", status: 401 },
  70003: { code: "ERR_IDENTITY_REQUEST", error: "unsupported_grant_type", status: 400 },
  70011: { code: "ERR_IDENTITY_REQUEST", error: "invalid_scope", status: 400 },
  70021: { code: "ERR_IDENTITY_FEDERATION", error: "invalid_client", status: 401 },
  90002: { code: "ERR_IDENTITY_REQUEST", error: "invalid_request", status: 400 },
  90061: { code: "ERR_IDENTITY_UNREACHABLE", error: "invalid_request", status: 400 },
  500011: { code: "ERR_IDENTITY_REQUEST", error: "invalid_resource", status: 400 },
  700016: { code: "ERR_IDENTITY_CLIENT", error: "unauthorized_client", status: 400 },
  700023: { code: "ERR_IDENTITY_ASSERTION", error: "invalid_client", status: 401 },
  700024: { code: "ERR_IDENTITY_EXPIRED", error: "invalid_client", status: 401 },
  700027: { code: "ERR_IDENTITY_ASSERTION", error: "invalid_client", status: 401 },
  700211: { code: "ERR_IDENTITY_FEDERATION", error: "invalid_client", status: 401 },
  700212: { code: "ERR_IDENTITY_FEDERATION", error: "invalid_client", status: 401 },
  700213: { code: "ERR_IDENTITY_FEDERATION", error: "invalid_client", status: 401 },
  900144: { code: "ERR_IDENTITY_REQUEST", error: "invalid_request", status: 400 },
  900561: { code: "ERR_IDENTITY_REQUEST", error: "invalid_request", status: 400 },
  7000215: { code: "ERR_IDENTITY_SECRET", error: "invalid_client", status: 401 },
  7000218: { code: "ERR_IDENTITY_REQUEST", error: "invalid_client", status: 401 },
  7000222: { code: "ERR_IDENTITY_SECRET", error: "invalid_client", status: 401 },
  9000411: { code: "ERR_IDENTITY_REQUEST", error: "invalid_request", status: 400 },
};
