/** Flags of `sealpod attest verify`. */
export interface VerifyFlags {
  readonly certs?: readonly string[];
  readonly endorsement?: readonly string[];
  readonly trust?: readonly string[];
  readonly crl?: readonly string[];
  readonly requireCrl?: boolean;
  readonly at?: string;
  readonly policy?: string;
  readonly hostData?: string;
  readonly reportData?: string;
  readonly runtimeData?: string;
  readonly measurement?: readonly string[];
  readonly minTcb?: string;
  readonly vmpl?: readonly string[];
  readonly allowDebug?: boolean;
  readonly jwks?: string;
  readonly issuer?: string;
  readonly ca?: string;
  /** A directory, or "off". */
  readonly certcache?: string;
  readonly printPolicy?: boolean;
}

/** How a check came out. `skipped`: nobody asked for it, or it was not reached. */
export type CheckOutcome = "passed" | "failed" | "skipped";

/** One line of the result. */
export interface CheckLine {
  readonly name: string;
  readonly outcome: CheckOutcome;
  /** What was found, and for a check that failed, what was expected. */
  readonly found: string;
}

/** A block of checks under a heading. */
export interface CheckGroup {
  readonly title: string;
  readonly checks: readonly CheckLine[];
}

/** What became of a piece of evidence. */
export interface VerifyOutcome {
  /** What the file is, in words. */
  readonly form: string;
  /** `malformed`: it is not what it should be, so there was nothing to verify. */
  readonly verdict: "verified" | "refused" | "malformed";
  readonly groups: readonly CheckGroup[];
  /** Fields of the report, or claims of the token, by the names that people know; undefined if it could not be read. */
  readonly fields: readonly (readonly [name: string, value: string])[] | undefined;
  /** Whether {@link fields} are what a verified signature covers. */
  readonly fieldsVerified: boolean;
  /** What the verdict means, in one line without the verdict's word. */
  readonly meaning: string;
  /** The name of the root, or the issuer of the token, that the verdict rests on. */
  readonly root: string | undefined;
  /** The evidence is the emulator's: as a verified chain says, or a verified token. */
  readonly emulated: boolean;
  readonly hint: string | undefined;
  /** Code of the error that decided; undefined if a requirement of the command line did, or nothing failed. */
  readonly code: string | undefined;
}
