import type { UvmTrust } from "@sealpod/cose";
import type { JsonValue } from "@sealpod/core";
import {
  booleanSetting,
  choiceSetting,
  commonSettings,
  durationSetting,
  fields,
  fileSetting,
  isPlainUrl,
  jsonSetting,
  listSetting,
  textOf,
  textSetting,
  type CommonSettings,
  type CommonValues,
  type Setting,
} from "@sealpod/service";
import { rootSetting, type RootSetting } from "./server-roots.ts";
import { KEYS_CACHE_TIME } from "./store.ts";

const MINUTE = 60 * 1000;
const DAY = 24 * 60 * MINUTE;
/** Node's timers take less than 2^31 milliseconds, some 24.9 days: what is longer they take for one millisecond. */
const MAX_TIMER: number = 24 * DAY;

/** Where revocation lists come from. */
export type CrlsSetting =
  | { readonly kind: "off" }
  /** Paths of lists, DER or PEM. */
  | { readonly kind: "files"; readonly files: readonly string[] }
  /** Base of a service with the face of AMD's KDS. */
  | { readonly kind: "service"; readonly url: string };

/** An issuer of access tokens for management. */
export interface ManagementIssuer {
  /** `iss` of the tokens. */
  readonly issuer: string;
  /** `aud` of the tokens. */
  readonly audience: string;
  /** URL of the issuer's keys (JWKS). */
  readonly keys: string;
  /** Who may manage: values of `oid` (`sub` where there is none), and for tokens of apps that act for themselves also `appid` or `azp`. */
  readonly subjects: readonly string[];
}

/** Configuration of the service. */
export interface AttestationSettings extends CommonValues {
  readonly issuer: string;
  readonly database: string;
  readonly masterKey: { readonly file: string | undefined; readonly environment: string | undefined; readonly allowGroup: boolean };
  readonly roots: readonly RootSetting[];
  readonly revocation: { readonly crls: CrlsSetting; readonly missing: "accept" | "refuse"; readonly refresh: number };
  readonly reportPolicy: string | undefined;
  readonly uvmTrust: { readonly microsoft: boolean; readonly extra: readonly UvmTrust[] };
  readonly defaultPolicyHash: string | undefined;
  readonly management: {
    readonly mode: "aad" | "isolated";
    readonly tokenFile: string | undefined;
    readonly issuers: readonly ManagementIssuer[];
    readonly authority: string | undefined;
    readonly certificates: readonly string[];
  };
  readonly keyRotation: { readonly every: number; readonly overlap: number };
}

type Schema<V> = { readonly [K in keyof V]: V[K] extends Section ? Schema<V[K]> : Setting<V[K]> };
type Section = AttestationSettings["masterKey" | "revocation" | "uvmTrust" | "management" | "keyRotation"];

/** The keys of the configuration, each with its meaning: `--describe-config` prints them. */
export const ATTESTATION_SETTINGS: CommonSettings & Schema<Omit<AttestationSettings, keyof CommonValues>> = {
  issuer: textSetting(
    "Public https URL of the service, without trailing slash: iss of its tokens, and what clients reach it under.",
    { required: true },
    "an https URL without trailing slash",
    (text) => (isPlainUrl(text, ["https:"]) && !text.endsWith("/") ? undefined : "expected an https URL without trailing slash, query, fragment or user"),
  ),
  ...commonSettings("127.0.0.1:8443"),
  database: fileSetting("SQLite database with signing keys, policies and their history; made if it is not there. Its directory must be the service's own.", {
    required: true,
  }),
  masterKey: {
    file: fileSetting(
      "File with the key that seals the signing keys: 32 bytes, raw, as 64 hexadecimal digits or as base64; readable by the service alone.",
      {},
    ),
    environment: textSetting(
      "Name of the environment variable with that key, in place of the file, such as ATTESTATION_MASTER_KEY.",
      {},
      "the name of a variable",
    ),
    allowGroup: booleanSetting("Whether the file's group may read it: what Kubernetes makes of a secret for a pod with fsGroup.", { preset: false }),
  },
  roots: listSetting(
    "Roots whose evidence is taken: \"amd\", and others that are named with their certificate. A root that is not AMD's (an emulator's) proves nothing about hardware; each token says in x-sealpod-root which one it rests on.",
    { preset: ["amd"] },
    rootSetting,
  ),
  revocation: {
    crls: jsonSetting(
      "AMD's revocation lists: off, a list of files (DER or PEM), or the URL of a certificate cache or KDS to fetch them from.",
      'a list of files, an http or https URL, or "off"',
      { preset: "off" },
      parseCrls,
    ),
    missing: choiceSetting("What becomes of evidence about whose intermediate certificate there is no list.", ["accept", "refuse"], { preset: "accept" }),
    refresh: durationSetting("Time between fetches of the lists.", { preset: "6h" }, MINUTE, MAX_TIMER),
  },
  reportPolicy: fileSetting(
    "Report policy in JSON (`sealpod attest verify --help`): what a genuine report must be like to get a token at all, such as a minimum TCB. Without it every genuine report gets one, and relying parties judge its claims.",
    {},
  ),
  uvmTrust: {
    microsoft: booleanSetting("Whether Microsoft's endorsements of the utility VMs of ACI and AKS earn a compliance status.", { preset: true }),
    extra: listSetting(
      "Others who may endorse utility VMs, and the compliance status that this earns.",
      { preset: [] },
      jsonSetting("An endorser.", '{"issuer": "did:x509:…", "feed", "minimumSvn", "claim"}', { required: true }, parseUvmTrust),
    ),
  },
  defaultPolicyHash: textSetting("x-ms-policy-hash of tokens under the default policy; that of the genuine service if nothing is said.", {}, "base64url"),
  management: {
    mode: choiceSetting(
      "Who may change policies: aad, whoever has an accepted token; isolated, only with the signature of a policy certificate besides.",
      ["aad", "isolated"],
      {
        preset: "aad",
      },
    ),
    tokenFile: fileSetting("File with a bearer token that may manage policies: 32 characters or more, readable by the service alone.", {}),
    issuers: listSetting(
      "Issuers whose access tokens may manage policies. Without them and without tokenFile, management operations answer 401.",
      { preset: [] },
      jsonSetting(
        "An issuer.",
        '{"issuer", "audience", "keys": URL of its JWKS, "subjects": [object ids, or client ids of apps that act for themselves]}',
        { required: true },
        parseIssuer,
      ),
    ),
    authority: textSetting("Where clients get tokens for management, named in the challenge; the first issuer if nothing is said.", {}, "a URL"),
    certificates: listSetting(
      "Files with the policy certificates that an isolated instance starts with; later they are changed by its API.",
      { preset: [] },
      fileSetting("A certificate.", { required: true }),
    ),
  },
  keyRotation: {
    every: durationSetting("Time for which a signing key signs.", { preset: "90d" }, DAY, 3650 * DAY),
    overlap: durationSetting("Time for which a signing key is published before it signs.", { preset: "1d" }, KEYS_CACHE_TIME + MINUTE, 365 * DAY),
  },
};

function parseCrls(value: JsonValue, directory: string): CrlsSetting {
  if (value === "off") return { kind: "off" };
  if (typeof value === "string") {
    if (!isPlainUrl(value, ["https:", "http:"])) throw new Error('expected "off", a list of files, or an http or https URL without query, fragment or user');
    return { kind: "service", url: value.replace(/\/+$/, "") };
  }
  return { kind: "files", files: pathsSetting.parse(value, directory) };
}

function parseUvmTrust(value: JsonValue): UvmTrust {
  const trust = fields(value, ["issuer", "feed", "minimumSvn", "claim"]);
  const issuer = textOf(trust, "issuer");
  if (!issuer.startsWith("did:x509:")) throw new Error("expected a did:x509 as issuer");
  const minimumSvn = trust["minimumSvn"];
  if (typeof minimumSvn !== "number" || !Number.isInteger(minimumSvn) || minimumSvn < 0) throw new Error("expected an integer of 0 or more as minimumSvn");
  return { issuer, feed: textOf(trust, "feed"), minimumSvn, claim: textOf(trust, "claim") };
}

function parseIssuer(value: JsonValue): ManagementIssuer {
  const entry = fields(value, ["issuer", "audience", "keys", "subjects"]);
  const keys = textOf(entry, "keys");
  // Whoever can change the keys on their way here manages the policies.
  if (!isPlainUrl(keys, ["https:"])) throw new Error("expected an https URL as keys");
  const { subjects } = entry;
  if (!Array.isArray(subjects) || subjects.length === 0 || !subjects.every((item) => typeof item === "string" && item !== "")) {
    throw new Error("expected a list of ids as subjects: tokens of everybody else are accepted, and may not manage");
  }
  return { issuer: textOf(entry, "issuer"), audience: textOf(entry, "audience"), keys, subjects: subjects as readonly string[] };
}

const pathSetting: Setting<string> = fileSetting("A path.", { required: true });
const pathsSetting: Setting<readonly string[]> = listSetting("Paths.", { required: true }, pathSetting);
