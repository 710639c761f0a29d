/** What `keyvault-client.ts` is told, and what it prints: its only argument and its only line, in JSON. */

/** An application with a client secret. */
export interface ClientSecretOf {
  readonly clientId: string;
  readonly secret: string;
}

/** Files with service-account tokens: one that the federated credentials of the pod match, and others that they do not, each for one reason. */
export type AssertionName =
  /** Of the cluster whose issuer is the identity service itself. */
  | "own"
  /** Of a cluster elsewhere. */
  | "federated"
  /** Of another service account of that cluster. */
  | "otherSubject"
  /** For another audience. */
  | "otherAudience"
  /** Of an issuer that no credential names. */
  | "otherIssuer"
  /** An hour old. */
  | "expired"
  /** Signed with another key under the cluster's kid. */
  | "forged"
  /** Of an issuer that a credential names, and that does not answer. */
  | "unreachable"
  /** A file that the client itself writes. */
  | "changing";

/** Evidence for releases. */
export interface ReleaseRun {
  /** An attestation token of a guest, whose runtime data is a wrapping key. */
  readonly token: string;
  /** The service that gave it. */
  readonly authority: string;
  /** Of that guest, 64 hexadecimal digits. */
  readonly hostData: string;
  /** PEM of the private half of the wrapping key. */
  readonly wrappingKey: string;
  /** PEM of the only certificate that chains of release signatures may end at. */
  readonly ca: string;
}

/** What the program is told. */
export interface KeyvaultRun {
  readonly scenario: string;
  /** URLs of a vault that decides by access policies, and of a managed HSM that decides by roles. */
  readonly vault: string;
  readonly hsm: string;
  /** What the vaults' challenge names. */
  readonly resource: string;
  readonly authorityHost: string;
  readonly tenantId: string;
  readonly otherTenantId: string;
  /** May do everything with keys and secrets. */
  readonly owner: ClientSecretOf;
  /** May use keys, and not read them. */
  readonly user: ClientSecretOf;
  /** Of the other tenant. */
  readonly stranger: ClientSecretOf;
  /** Proves with a certificate who it is; PEM of certificate and key. */
  readonly certified: { readonly clientId: string; readonly pem: string };
  /** The pod: it may get secrets of the vault and release keys of the HSM. */
  readonly workload: { readonly clientId: string; readonly files: Readonly<Record<AssertionName, string>> };
  readonly release: ReleaseRun;
}

/** What the program prints. */
export interface KeyvaultOutcome {
  /** Calls of the genuine clients' methods. */
  readonly calls: number;
  /** Secret members of JSON web keys that came back, as `method: member`. There must be none. */
  readonly leaks: readonly string[];
  readonly found: unknown;
}
