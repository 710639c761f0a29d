import { decodeAttestationToken } from "@sealpod/attestation";
import { asObject, encodeJson, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { DEFAULT_COMPLIANCE_STATUS, parseAnnotatedPod, type AnnotatedPod } from "@sealpod/importkey";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { readText } from "../workspace.ts";
import { readTextOrStdin } from "./files.ts";
import { shown, timeText } from "./output.ts";

/** Flags that say what a pod would prove. */
export interface EvidenceOptions {
  /** Annotated YAML. */
  readonly yamlFile?: string;
  readonly pod?: string;
  readonly token?: string;
  readonly claims?: string;
  readonly authority?: string;
  readonly complianceStatus?: string;
  readonly launchMeasurement?: string;
  readonly debuggable?: boolean;
  /** `NAME=VALUE`; the value is JSON if it is, and text otherwise. */
  readonly claim?: readonly string[];
}

/** Where a claim comes from: out of the pod's YAML, out of a token, a flag, or nowhere. */
export type ClaimSource = "measured" | "token" | "given" | "assumed";

/** What a pod would prove. Nothing about it is verified. */
export interface Evidence {
  /** What it is, in words. */
  readonly form: string;
  readonly issuer: string;
  readonly claims: JsonObject;
  /** By the first name of a path; of a token all are of the token. */
  readonly sources: ReadonlyMap<string, ClaimSource>;
  /** One line for each thing that is assumed, with the flag that says otherwise. */
  readonly assumed: readonly string[];
  readonly notes: readonly string[];
  /** Of a YAML: texts of its containers that its annotation's policy does not have, of an edit after genpolicy; undefined for evidence of no YAML. */
  readonly stray?: readonly string[];
  /** File of the pod, for commands to copy. */
  readonly yamlFile: string | undefined;
}

/** A compact JWS. */
const TOKEN = /^[\w-]+\.[\w-]+\.[\w-]*$/;
const HOST_DATA = "x-ms-sevsnpvm-hostdata";
const COMPLIANCE = "x-ms-compliance-status";
const DEBUGGABLE = "x-ms-sevsnpvm-is-debuggable";
const MEASUREMENT = "x-ms-sevsnpvm-launchmeasurement";
/** What Microsoft's service calls the guests of its documents; ours is Sealpod's. */
const AZURE_COMPLIANCE = "azure-compliant-uvm";
const RUNTIME = "x-ms-runtime";

/**
 * A token as it goes to a vault, of a file or standard input: as it is, or within `{"token": …}`, the answer of an attestation service.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function readTokenText(path: string, context: CliContext): Promise<string> {
  const { name, text } = await readTextOrStdin(path, context);
  const token = tokenIn(text.trim(), name);
  if (token !== undefined) return token;
  throw new CliError("ERR_CLI_FILE", `${name} holds no attestation token`, {
    hint: 'Expected a JSON Web Token, or {"token": …} as an attestation service answers.',
  });
}

function tokenIn(text: string, name: string): string | undefined {
  if (TOKEN.test(text)) return text;
  if (!text.startsWith("{")) return undefined;
  const { token } = asObject(parseJson(text, name)) ?? {};
  return typeof token === "string" && TOKEN.test(token) ? token : undefined;
}

/**
 * The evidence of a command line.
 * @param authorities of the policy: the one that is assumed where the pod does not say, if there is but one
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE
 * @throws {ImportKeyError} ERR_IMPORTKEY_POLICY for a YAML without a policy
 */
export async function readEvidence(options: EvidenceOptions, authorities: readonly string[], context: CliContext): Promise<Evidence> {
  const { yamlFile, token, claims } = options;
  const given = [yamlFile, token, claims].filter((item) => item !== undefined).length;
  if (given !== 1) {
    throw new CliError("ERR_CLI_USAGE", given === 0 ? "no pod is given" : "-y, --token and --claims are several pods", {
      hint: "Give one: -y app.yaml (annotated), --token FILE (of an attestation service), or --claims FILE (JSON).",
    });
  }
  const evidence =
    yamlFile !== undefined
      ? evidenceOfPod(parseAnnotatedPod(await readText(yamlFile, context), options.pod), yamlFile, options, authorities)
      : token !== undefined
        ? evidenceOfToken(await readTokenText(token, context), context)
        : await evidenceOfClaims(claims ?? "", options, authorities, context);
  return withGivenClaims(evidence, options.claim ?? []);
}

function evidenceOfPod(pod: AnnotatedPod, yamlFile: string, options: EvidenceOptions, authorities: readonly string[]): Evidence {
  const issuer = authorityOf(options, authorities, pod);
  const isAzure = new URL(issuer.url).hostname.endsWith(".attest.azure.net");
  const compliance = options.complianceStatus ?? (isAzure ? AZURE_COMPLIANCE : DEFAULT_COMPLIANCE_STATUS);
  const { launchMeasurement: measurement, debuggable = false } = options;
  const claims: JsonObject = {
    "x-ms-attestation-type": "sevsnpvm",
    [COMPLIANCE]: compliance,
    [HOST_DATA]: pod.hostData,
    [DEBUGGABLE]: debuggable,
    ...(measurement === undefined ? {} : { [MEASUREMENT]: measurement }),
  };
  const sources = new Map<string, ClaimSource>([
    ["x-ms-attestation-type", "assumed"],
    [COMPLIANCE, options.complianceStatus === undefined ? "assumed" : "given"],
    [HOST_DATA, "measured"],
    [DEBUGGABLE, options.debuggable === undefined ? "assumed" : "given"],
    [MEASUREMENT, "given"],
  ]);
  const assumed = [
    ...(issuer.assumed ? [`a token of ${issuer.url} (--authority)`] : []),
    'x-ms-attestation-type = "sevsnpvm" (--claim)',
    ...(options.complianceStatus === undefined ? [`${COMPLIANCE} = ${encodeJson(compliance)} (--compliance-status)`] : []),
    ...(options.debuggable === undefined ? [`${DEBUGGABLE} = false (--debuggable)`] : []),
    ...(measurement === undefined ? [`no ${MEASUREMENT} (--launch-measurement; sealpod attest measure computes it)`] : []),
  ];
  const by = pod.form === "policy" ? "its policy" : "its initdata";
  return {
    form: `${pod.place}; HOST_DATA ${pod.hostData} by ${by}`,
    issuer: issuer.url,
    claims,
    sources,
    assumed,
    notes: annotationNotes(pod, yamlFile),
    stray: pod.stray,
    yamlFile,
  };
}

/** A cluster takes the annotation as it is, so that an edit of the YAML alone changes no HOST_DATA. */
function annotationNotes({ stray }: AnnotatedPod, yamlFile: string): readonly string[] {
  const found =
    stray.length === 0
      ? []
      : [
          `${yamlFile} seems to be edited since: ${stray.map((text) => shown(encodeJson(text.slice(0, 60)))).join(", ")} ${stray.length === 1 ? "is" : "are"} nowhere in that policy, and the guest would refuse to run it`,
        ];
  return [`the policy is that of the annotation; after an edit run genpolicy first: sealpod genpolicy -y ${yamlFile}`, ...found];
}

function evidenceOfToken(token: string, context: CliContext): Evidence {
  const { claims } = decodeAttestationToken(token);
  const { iss } = claims;
  if (typeof iss !== "string") throw new CliError("ERR_CLI_FILE", "the token has no iss: no authority vouches for it");
  return {
    form: `token of ${shown(iss)} (NOT VERIFIED: its signature is the vault's to check)`,
    issuer: iss,
    claims,
    sources: new Map(),
    assumed: [],
    notes: notesOf(claims, context),
    yamlFile: undefined,
  };
}

async function evidenceOfClaims(path: string, options: EvidenceOptions, authorities: readonly string[], context: CliContext): Promise<Evidence> {
  const { name, text } = await readTextOrStdin(path, context);
  const token = tokenIn(text.trim(), name);
  if (token !== undefined) return evidenceOfToken(token, context);
  const claims = asObject(parseJson(text, name));
  if (claims === undefined)
    throw new CliError("ERR_CLI_FILE", `${name} holds no claims`, { hint: 'Expected a JSON object of claims by name, e.g. {"x-ms-sevsnpvm-hostdata": "…"}.' });
  const { iss } = claims;
  const issuer = options.authority === undefined && typeof iss === "string" ? { url: iss, assumed: false } : authorityOf(options, authorities, undefined);
  return {
    form: `claims of ${name}`,
    issuer: issuer.url,
    claims,
    sources: new Map(),
    assumed: issuer.assumed ? [`a token of ${issuer.url} (--authority)`] : [],
    notes: notesOf(claims, context),
    yamlFile: undefined,
  };
}

/** What a vault looks at besides the release policy. */
function notesOf(claims: JsonObject, context: CliContext): readonly string[] {
  const { exp } = claims;
  const root = claims["x-sealpod-root"];
  return [
    ...(typeof exp === "number" && exp * 1000 <= context.clock.now() ? [`the token expired at ${timeText(exp)}: a vault refuses it whatever the policy`] : []),
    ...(claims[RUNTIME] === undefined ? ["there is no x-ms-runtime with a key to wrap for: a vault refuses it whatever the policy"] : []),
    ...(root === undefined || root === "amd" ? [] : [`the evidence rests on ${shown(root)}, not on AMD: a vault refuses it unless it was told to take that`]),
  ];
}

function authorityOf(
  options: EvidenceOptions,
  authorities: readonly string[],
  pod: AnnotatedPod | undefined,
): { readonly url: string; readonly assumed: boolean } {
  if (options.authority !== undefined) return { url: asUrl(options.authority, "--authority"), assumed: false };
  const [ofPod, second] = pod?.variable("SkrClientMAAEndpoint") ?? [];
  // A placeholder that nothing has replaced is no authority.
  if (ofPod !== undefined && second === undefined && !ofPod.includes("$")) return { url: asUrl(ofPod, "SkrClientMAAEndpoint"), assumed: false };
  const [only, other] = [...new Set(authorities)];
  if (only !== undefined && other === undefined) return { url: only, assumed: true };
  throw new CliError("ERR_CLI_USAGE", "the policy has several authorities, and nothing says whose token the pod would have", {
    hint: `Give --authority: ${authorities.join(" or ")}`,
  });
}

function asUrl(text: string, what: string): string {
  const url = /^https:\/\//i.test(text) ? text : `https://${text}`;
  if (URL.canParse(url)) return url;
  throw new CliError("ERR_CLI_USAGE", `${what} ${JSON.stringify(text.slice(0, 200))} is not the URL of an attestation service`);
}

function withGivenClaims(evidence: Evidence, given: readonly string[]): Evidence {
  let { claims } = evidence;
  const sources = new Map(evidence.sources);
  const names = new Set<string>();
  for (const text of given) {
    const at = text.indexOf("=");
    const path = at === -1 ? [] : text.slice(0, at).split(".");
    const [first] = path;
    if (first === undefined || path.includes(""))
      throw new CliError("ERR_CLI_USAGE", `--claim ${text.slice(0, 100)} is not NAME=VALUE`, { hint: "e.g. --claim x-ms-sevsnpvm-vmpl=0" });
    claims = withClaim(claims, path, valueOf(text.slice(at + 1)));
    sources.set(first, "given");
    names.add(first);
  }
  return {
    ...evidence,
    claims,
    sources,
    assumed: evidence.assumed.filter((line) => ![...names].some((name) => line.startsWith(`${name} `) || line.startsWith(`no ${name} `))),
  };
}

/** Text stays text unless it is a boolean or a whole number, as attestation services have them. */
function valueOf(text: string): JsonValue {
  if (text === "true" || text === "false") return text === "true";
  return /^(?:0|[1-9]\d{0,14})$/.test(text) ? Number(text) : text;
}

function withClaim(claims: JsonObject, [first = "", ...rest]: readonly string[], value: JsonValue): JsonObject {
  const inner = Object.hasOwn(claims, first) ? asObject(claims[first]) : undefined;
  const entries = Object.entries(claims).filter(([name]) => name !== first);
  return Object.fromEntries([...entries, [first, rest.length === 0 ? value : withClaim(inner ?? {}, rest, value)]]);
}
