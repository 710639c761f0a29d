import { Hono, type Context } from "hono";
import {
  canonicalJson,
  asObject,
  decodeUtf8,
  encodeJson,
  equalBytes,
  isSealpodError,
  isZero,
  messageOf,
  parseJson,
  encodeUtf8,
  newUuid,
  sha384,
  toHex,
  type Clock,
  type JsonObject,
  type JsonValue,
  type Logger,
  type Random,
} from "@sealpod/core";
import type { ClaimFinding } from "@sealpod/release-policy";
import { requestBody, requestContext } from "@sealpod/service";
import { checkReferenceValue, encodePolicy, parsePolicyRequest, USELESS, type AdminAccess } from "./admin.ts";
import { EAR_ISSUER, evidenceClaims, signEar, teeKeyClaim, TOKEN_LIFETIME, verifyEar, type VerifiedEar } from "./ear.ts";
import { KbsError, WIRE_KINDS } from "./errors.ts";
import { MAX_INIT_DATA, parseInitData, verifyInitData } from "./init-data.ts";
import { encryptJwe } from "./jwe.ts";
import { DEFAULT_ATTESTATION_POLICY, DEFAULT_RESOURCE_POLICY, PolicyEngine } from "./policy.ts";
import { ReleaseRefused, releaseKeyTo, type ReleasedKey, type ReleasedKeys } from "./released-key.ts";
import { formatResourcePath, parseResourcePath, secretNameOf } from "./resource-path.ts";
import { readCookie, SESSION_COOKIE, Sessions, type AttestedSession, type OpenSession } from "./session.ts";
import { parseSnpEvidence } from "./snp-evidence.ts";
import { KbsState, MAX_VALUE, NOBODY, type KbsStore, type StateAudit } from "./state.ts";
import { parseTeeKey } from "./tee-key.ts";
import { EvidenceVerifier, type EvidenceRules } from "./verify-evidence.ts";

/** Evidence in JSON has some 20 KiB; init data may have {@link MAX_INIT_DATA}, and twice that with their quotes escaped. */
const MAX_ATTEST_BODY: number = 2 * MAX_INIT_DATA + 256 * 1024;
const MAX_AUTH_BODY = 16 * 1024;
/** A policy or a resource, in base64 and with JSON around it. */
const MAX_ADMIN_BODY: number = 2 * MAX_VALUE;
/** Seconds in which a guest has to attest; CoCo's default. */
const SESSION_LIFETIME = 300;
/** RFC 6750 section 2.1. What is longer than a header may be comes with the cookie. */
const BEARER = /^Bearer +([A-Za-z0-9._~+/=-]{1,1048576})$/i;
/** Versions of the protocol whose requests mean one thing (specs/attestation.md 9.1). Version 0.1.0 hashed the key in another way. */
const PROTOCOL = /^0\.(1\.[1-9]\d?|[234]\.\d{1,3})$/;
const ERROR_TYPE = "https://github.com/confidential-containers/kbs/errors/";
/** Names of reference values, as policies ask for them. */
const REFERENCE_ID = /^[A-Za-z0-9_.:/-]{1,256}$/;
/** The policy that is applied, by the names that CoCo's tool has for it. */
const POLICY_IDS: readonly string[] = ["default_cpu", "default"];

/** Options of {@link kbsApp}. */
export interface KbsAppOptions extends EvidenceRules {
  readonly store: KbsStore;
  /** The vault whose secrets named `kbs--…` are the resources; a Key Vault face may serve it too. */
  readonly vault: string;
  /** The vault of the key broker's own keys, policies and reference values; `kbs-state` when absent. No other face may serve it: who reads it signs tokens. */
  readonly stateVault?: string;
  /** Keys of a vault that guests can have as `default/key/<name>`, each by its own release policy; none when absent. A resource of that name goes first. */
  readonly keys?: ReleasedKeys;
  /** Who may set resources, policies and reference values over HTTP; nobody when absent. */
  readonly administrators?: AdminAccess;
  /** What counts until an administrator sets something else. */
  readonly defaults?: {
    /** Rego; {@link DEFAULT_RESOURCE_POLICY} when absent. */
    readonly resourcePolicy?: string;
    /** Rego; {@link DEFAULT_ATTESTATION_POLICY} when absent. */
    readonly attestationPolicy?: string;
    /** By name, e.g. `snp_launch_measurement`; a value that an administrator set takes the place of the one here. */
    readonly referenceValues?: Readonly<Record<string, JsonValue>>;
  };
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/**
 * The vault with the face of CoCo's key broker: the protocol of Trustee (RCAR, version 0.4.0) that unmodified guests speak (specs/attestation.md 9).
 * A guest attests itself, gets a token about itself, and resources encrypted to the key that its evidence is bound to.
 * @throws {KbsError} ERR_KBS_ARGUMENT, ERR_KBS_POLICY_SYNTAX for a default that is none
 */
export function kbsApp(options: KbsAppOptions): Hono {
  const { clock, random, vault, stateVault = "kbs-state", defaults = {} } = options;
  if (vault === stateVault)
    throw new KbsError("ERR_KBS_ARGUMENT", `the key broker's own keys and its resources cannot be in one vault, ${JSON.stringify(vault)}`);
  const verifier = new EvidenceVerifier(options, clock);
  const state = new KbsState({ store: options.store, vault, stateVault, random, now: () => clock.now() });
  const sessions = new Sessions({ key: () => state.sessionKey(), clock, random, lifetime: SESSION_LIFETIME });
  const policies = new PolicyEngine(clock);
  const defaultPolicies = {
    resource: defaults.resourcePolicy ?? DEFAULT_RESOURCE_POLICY,
    attestation: defaults.attestationPolicy ?? DEFAULT_ATTESTATION_POLICY,
  };
  for (const kind of ["resource", "attestation"] as const) policies.check(defaultPolicies[kind], kind);
  const defaultValues = Object.entries(defaults.referenceValues ?? {});

  const app = new Hono();

  const lineOf = (c: Context, operation: string, name: string): StateAudit => {
    const { id } = requestContext(c);
    return { ...NOBODY, requestId: id === "none" ? newUuid(random) : id, at: clock.now(), operation, name, version: "", reason: "" };
  };

  const setCookie = async (c: Context, session: OpenSession | AttestedSession): Promise<void> => {
    const value = await sessions.encode(session);
    const secure = new URL(c.req.url).protocol === "https:" ? "; Secure" : "";
    c.header(
      "set-cookie",
      `${SESSION_COOKIE}=${value}; Path=/kbs/v0; Expires=${new Date(session.expires * 1000).toUTCString()}; HttpOnly; SameSite=Strict${secure}`,
    );
  };
  const sessionOf = async (c: Context): Promise<OpenSession | AttestedSession> => sessions.decode(readCookie(c.req.header("cookie"), SESSION_COOKIE));

  app.use(async (c, next) => {
    c.header("cache-control", "no-store");
    c.header("x-content-type-options", "nosniff");
    await next();
  });

  app.get("/.well-known/jwks.json", async (c) => {
    const { jwk } = await state.signingKey();
    return c.json({ keys: [jwk] });
  });

  app.post("/kbs/v0/auth", async (c) => {
    const { version, tee } = await readJson(c, MAX_AUTH_BODY, 8);
    if (typeof version !== "string" || !PROTOCOL.test(version)) throw wrongVersion(version);
    if (tee !== "snp") {
      const found = typeof tee === "string" ? JSON.stringify(tee.slice(0, 40)) : "missing";
      throw new KbsError("ERR_KBS_TEE", `tee is ${found}, expected "snp": evidence of other hardware, and of the sample attester, is not verified here`);
    }
    const session = sessions.open(version);
    await setCookie(c, session);
    return c.json({ nonce: session.nonce, "extra-params": "" });
  });

  app.post("/kbs/v0/attest", async (c) => {
    const session = await sessionOf(c);
    if (session.kind === "attested") {
      await setCookie(c, session);
      return c.json({ token: session.token });
    }
    const request = parseAttestation(await readJson(c, MAX_ATTEST_BODY, 32), session);
    const evidence = parseSnpEvidence(request.evidence);
    // Cheap, and what a mistaken client gets wrong first; it proves nothing until the report is verified.
    checkReportData(evidence.report.reportData, request.runtimeData);
    const verified = await verifier.verify(evidence);
    const initData = parseInitData(request.initData);
    const claims = evidenceClaims(verified, request.runtimeData, initData === undefined ? undefined : verifyInitData(initData, verified.report.hostData));
    const { attestationPolicy, referenceValues } = await state.documents();
    const vector = policies.appraise(attestationPolicy ?? defaultPolicies.attestation, claims, new Map([...defaultValues, ...referenceValues]));
    const token = signEar(await state.signingKey(), { evidence: claims, vector, policyId: "default" }, clock);
    await state.audit({
      ...lineOf(c, "kbs/attest", ""),
      authority: EAR_ISSUER,
      reason: `${describeGuest(claims)}; vector ${Object.entries(vector)
        .filter(([, value]) => value !== 0)
        .map(([name, value]) => `${name} ${value}`)
        .join(", ")}`,
    });
    await setCookie(c, { kind: "attested", id: session.id, expires: Math.max(session.expires, Math.floor(clock.now() / 1000) + TOKEN_LIFETIME), token });
    requestContext(c, options.logger).note({ root: verified.root.name, product: verified.product });
    return c.json({ token });
  });

  /** The token of a request: its bearer, else that of its session. */
  const tokenOf = async (c: Context): Promise<VerifiedEar> => {
    const authorization = c.req.header("authorization");
    const bearer = BEARER.exec(authorization ?? "")?.[1];
    if (authorization !== undefined && bearer === undefined) throw new KbsError("ERR_KBS_TOKEN", "the Authorization header has no bearer token");
    let token = bearer;
    if (token === undefined) {
      if (readCookie(c.req.header("cookie"), SESSION_COOKIE) === undefined)
        throw new KbsError("ERR_KBS_TOKEN_MISSING", "the request has neither a session nor an attestation token", {
          hint: "Attest first: POST /kbs/v0/auth, then /kbs/v0/attest.",
        });
      const session = await sessionOf(c);
      if (session.kind === "open") throw new KbsError("ERR_KBS_TOKEN_MISSING", "the session has not been attested", { hint: "POST /kbs/v0/attest first." });
      token = session.token;
    }
    return verifyEar(token, await state.signingKey(), clock);
  };

  app.get("/kbs/v0/resource/*", async (c) => {
    const ear = await tokenOf(c);
    const parts = pathParts(c);
    const line = { ...lineOf(c, "kbs/get-resource", parts.join("/").slice(0, 256)), authority: EAR_ISSUER };
    const guest = describeGuest(ear.evidence);
    const refuse = async (failed: "policy" | "key" | "wrapping-key", error: unknown, findings: readonly ClaimFinding[] = []): Promise<never> => {
      await state.audit({ ...line, outcome: "refused", failed, reason: `${messageOf(error)}; ${guest}`, findings });
      throw error;
    };
    let path;
    let teeKey;
    try {
      path = parseResourcePath(parts);
    } catch (error) {
      return refuse("key", error);
    }
    try {
      teeKey = parseTeeKey(teeKeyClaim(ear));
    } catch (error) {
      return refuse("wrapping-key", error);
    }
    const query = Object.fromEntries(new URL(c.req.url).searchParams);
    // The policy comes first: who may not have a resource is not told whether there is one.
    try {
      const { resourcePolicy, referenceValues } = await state.documents();
      if (!policies.allows(resourcePolicy ?? defaultPolicies.resource, parts, query, ear.claims, new Map([...defaultValues, ...referenceValues])))
        throw new KbsError("ERR_KBS_POLICY_DENY", `the resource policy does not allow this guest to have ${formatResourcePath(path)}`, {
          hint: "Its token says why: see ear.status, the trustworthiness vector, and init_data, which the reference value snp_host_data has to name. Reference values that are not set affirm nothing.",
        });
    } catch (error) {
      return refuse("policy", error);
    }
    let resource: (Pick<ReleasedKey, "bytes" | "version"> & Partial<Pick<ReleasedKey, "findings">>) | undefined = await state.resource(secretNameOf(path));
    if (resource === undefined && options.keys !== undefined) {
      try {
        resource = await releaseKeyTo(options.store, options.keys, path, ear.evidence, clock);
      } catch (error) {
        if (!(error instanceof ReleaseRefused)) throw error;
        return refuse("policy", error, error.findings);
      }
    }
    if (resource === undefined) return refuse("key", new KbsError("ERR_KBS_RESOURCE", `there is no resource ${formatResourcePath(path)}`));
    try {
      const jwe = await encryptJwe(teeKey, resource.bytes, random);
      // On disk before anything is given away.
      await state.audit({ ...line, version: resource.version, reason: guest, findings: resource.findings ?? [] });
      requestContext(c, options.logger).note({ resource: formatResourcePath(path) });
      return c.json(jwe);
    } finally {
      resource.bytes.fill(0);
    }
  });

  /** An operation of administrators: authentication first, so that strangers learn nothing. */
  const administrator = async (c: Context, operation: string, name: string): Promise<StateAudit> => {
    const token = BEARER.exec(c.req.header("authorization") ?? "")?.[1];
    const refuse = (problem: string): never => {
      throw new KbsError("ERR_KBS_ADMIN", problem);
    };
    if (token === undefined) return refuse("this operation is for administrators: a bearer token is required");
    if (options.administrators === undefined) return refuse("this key broker was set up without anybody who may manage it");
    const verdict = await options.administrators.authenticate(token);
    if (verdict.kind === "refused") return refuse(`the bearer token is not accepted: ${verdict.problem}`);
    const { tenantId, appid, oid } = verdict;
    return { ...lineOf(c, operation, name.slice(0, 256)), tenantId, appid, oid };
  };

  app.post("/kbs/v0/resource/*", async (c) => {
    const line = await administrator(c, "kbs/set-resource", pathParts(c).join("/"));
    const path = parseResourcePath(pathParts(c));
    await state.setResource(secretNameOf(path), await readBody(c, MAX_ADMIN_BODY), line);
    return c.body(null, 200);
  });
  app.delete("/kbs/v0/resource/*", async (c) => {
    const line = await administrator(c, "kbs/delete-resource", pathParts(c).join("/"));
    const path = parseResourcePath(pathParts(c));
    if (!(await state.deleteResource(secretNameOf(path), line))) throw new KbsError("ERR_KBS_RESOURCE", `there is no resource ${formatResourcePath(path)}`);
    return c.body(null, 200);
  });

  app.post("/kbs/v0/resource-policy", async (c) => {
    const line = await administrator(c, "kbs/set-resource-policy", "");
    const text = parsePolicyRequest(await readJson(c, MAX_ADMIN_BODY, 8));
    policies.check(text, "resource");
    await state.setPolicy("resource", text, line);
    return c.body(null, 200);
  });
  app.get("/kbs/v0/resource-policy", async (c) => {
    await administrator(c, "kbs/get-resource-policy", "");
    return c.text(encodePolicy((await state.documents()).resourcePolicy ?? defaultPolicies.resource));
  });

  app.post("/kbs/v0/attestation-policy", async (c) => {
    const line = await administrator(c, "kbs/set-attestation-policy", "");
    const body = await readJson(c, MAX_ADMIN_BODY, 8);
    const { type = "rego", policy_id: id } = body;
    if (type !== "rego") throw new KbsError("ERR_KBS_POLICY_SYNTAX", `member "type" must be "rego"`);
    if (typeof id !== "string" || !POLICY_IDS.includes(id)) throw wrongPolicyId(id);
    const text = parsePolicyRequest(body);
    policies.check(text, "attestation");
    await state.setPolicy("attestation", text, line);
    return c.body(null, 200);
  });
  app.get("/kbs/v0/attestation-policy/:id", async (c) => {
    await administrator(c, "kbs/get-attestation-policy", c.req.param("id"));
    if (!POLICY_IDS.includes(c.req.param("id"))) throw wrongPolicyId(c.req.param("id"));
    return c.text(encodePolicy((await state.documents()).attestationPolicy ?? defaultPolicies.attestation));
  });

  app.post("/kbs/v0/reference-value", async (c) => {
    const line = await administrator(c, "kbs/set-reference-value", "");
    for (const [id, value] of parseReferenceValues(await readJson(c, MAX_ADMIN_BODY, 32))) await state.setReferenceValue(id, value, { ...line, name: id });
    return c.body(null, 200);
  });
  app.post("/kbs/v0/reference-value/:id", async (c) => {
    const id = requireReferenceId(c.req.param("id"));
    const line = await administrator(c, "kbs/set-reference-value", id);
    const value = await readValue(c, MAX_ADMIN_BODY, 32);
    checkReferenceValue(id, value);
    await state.setReferenceValue(id, value, line);
    return c.body(null, 200);
  });
  app.get("/kbs/v0/reference-value", async (c) => {
    await administrator(c, "kbs/list-reference-values", "");
    const values = Object.fromEntries([...defaultValues, ...(await state.documents()).referenceValues]);
    return c.body(encodeJson(values), 200, { "content-type": "application/json" });
  });
  app.get("/kbs/v0/reference-value/:id", async (c) => {
    const id = requireReferenceId(c.req.param("id"));
    await administrator(c, "kbs/get-reference-value", id);
    const value = new Map([...defaultValues, ...(await state.documents()).referenceValues]).get(id);
    if (value === undefined) throw new KbsError("ERR_KBS_RESOURCE", `there is no reference value ${JSON.stringify(id)}`);
    return c.body(encodeJson(value), 200, { "content-type": "application/json" });
  });

  app.all("*", (c) => {
    const what = `${c.req.method} ${c.req.path.slice(0, 200)}`;
    const plugin = /^\/kbs\/v0\/([^/]+)\/./.exec(c.req.path)?.[1];
    if (plugin !== undefined && !OWN_PATHS.has(plugin))
      throw new KbsError("ERR_KBS_PLUGIN", `there is no plugin ${JSON.stringify(plugin.slice(0, 60))}: ${what}`);
    throw new KbsError("ERR_KBS_PATH", `there is no operation ${what}`);
  });

  app.onError((error, c) => errorResponse(options, error, c));
  return app;
}

/** First parts of our own paths below `/kbs/v0`: what is not among them would be a plugin. */
const OWN_PATHS: ReadonlySet<string> = new Set(["auth", "attest", "resource", "resource-policy", "attestation-policy", "reference-value"]);

/** What an attest request says, whichever version of the protocol it is of. */
interface AttestationRequest {
  readonly evidence: JsonValue | undefined;
  readonly initData: JsonValue | undefined;
  /** What REPORT_DATA is the hash of. */
  readonly runtimeData: JsonObject;
}

/**
 * Since 0.4.0 a request has `runtime-data` and composite evidence; before, `tee-pubkey` and the evidence itself, and the hash is over nonce and key. Sessions of older versions may use
 * either shape, because releases of them differ; which one it is, the members say.
 */
function parseAttestation(body: JsonObject, session: OpenSession): AttestationRequest {
  const { nonce } = session;
  if (body["runtime-data"] === undefined && body["tee-pubkey"] !== undefined) {
    if (session.version.startsWith("0.4.")) throw badRequest('"runtime-data" is missing: it has nonce and tee-pubkey since version 0.4.0');
    const evidence = asObject(body["tee-evidence"]);
    if (evidence?.["primary_evidence"] !== undefined)
      throw badRequest('"tee-pubkey" beside composite evidence is of no version of the protocol: send "runtime-data"');
    return { evidence, initData: body["init-data"], runtimeData: { nonce, "tee-pubkey": parseTeeKey(body["tee-pubkey"]).jwk } };
  }
  if (body["tee-pubkey"] !== undefined) throw badRequest('"tee-pubkey" stands beside "runtime-data": which of the keys is meant is not clear');
  const runtimeData = asObject(body["runtime-data"]);
  if (runtimeData === undefined) throw badRequest('"runtime-data" is missing or no object');
  if (runtimeData["nonce"] !== nonce) throw new KbsError("ERR_KBS_SESSION", "the nonce in runtime-data is not that of this session");
  const composite = asObject(body["tee-evidence"]);
  const { primary_evidence: evidence, additional_evidence: additional = "" } = composite ?? {};
  if (additional !== "" && additional !== "{}")
    throw new KbsError("ERR_KBS_TEE", "additional_evidence is of other devices, which are not verified here: expected an empty string");
  return {
    evidence,
    initData: body["init-data"],
    runtimeData: { "additional-evidence": additional, nonce, "tee-pubkey": parseTeeKey(runtimeData["tee-pubkey"]).jwk },
  };
}

/** REPORT_DATA is SHA-384 over the canonical JSON of the runtime data and 16 zero bytes: the guest's word that nonce and key are its own (specs/attestation.md 9.1.3). */
function checkReportData(reportData: Uint8Array, runtimeData: JsonObject): void {
  const digest = sha384(encodeUtf8(canonicalJson(runtimeData)));
  if (equalBytes(digest, reportData.subarray(0, digest.length)) && isZero(reportData.subarray(digest.length))) return;
  throw new KbsError(
    "ERR_KBS_REPORT_DATA",
    `REPORT_DATA is ${toHex(reportData)}, expected ${toHex(digest)} and 16 zero bytes: SHA-384 of the canonical JSON of ${Object.keys(runtimeData).join(", ")}`,
  );
}

/** `{"version", "type": "sample", "payload": base64 of {name: values}}`, as CoCo's tool sends it. */
function parseReferenceValues(body: JsonObject): readonly (readonly [string, JsonValue])[] {
  const { type, payload } = body;
  if (type !== "sample" || typeof payload !== "string")
    throw new KbsError("ERR_KBS_POLICY_SYNTAX", 'expected {"version", "type": "sample", "payload": base64}');
  try {
    const values = asObject(
      parseJson(decodeUtf8(new Uint8Array(Buffer.from(payload, "base64")), "payload"), "payload", { maxLength: MAX_ADMIN_BODY, maxDepth: 32 }),
    );
    if (values === undefined) throw new KbsError("ERR_KBS_POLICY_SYNTAX", "payload is no JSON object of names and values");
    // All of them, before the first is set.
    for (const [id, value] of Object.entries(values)) checkReferenceValue(requireReferenceId(id), value);
    return Object.entries(values);
  } catch (cause) {
    if (cause instanceof KbsError) throw cause;
    throw new KbsError("ERR_KBS_POLICY_SYNTAX", messageOf(cause), { cause });
  }
}

function requireReferenceId(id: string): string {
  if (REFERENCE_ID.test(id)) return id;
  throw new KbsError(
    "ERR_KBS_POLICY_SYNTAX",
    `the reference value's name is ${JSON.stringify(id.slice(0, 60))}, expected 1 to 256 letters, digits, or _ . : / -`,
  );
}

/** The parts of a resource's path after `/kbs/v0/resource/`, as they stand in the URL: an escaped character is none that a part can have. */
function pathParts(c: Context): readonly string[] {
  return new URL(c.req.url).pathname.replace(/^\/kbs\/v0\/resource\//, "").split("/");
}

/** For logs and audits, from a token's evidence: what the guest is. */
function describeGuest(evidence: JsonObject): string {
  const snp = asObject(evidence["snp"]);
  const text = (value: JsonValue | undefined): string => (typeof value === "string" ? value : "?");
  const root = text(asObject(evidence["sealpod"])?.["root"]);
  return `guest with measurement ${text(snp?.["measurement"])}, HOST_DATA ${text(evidence["init_data"])}, chip ${text(snp?.["chip_id"]).slice(0, 16)}…, root ${root}`;
}

async function readBody(c: Context, limit: number): Promise<Uint8Array> {
  try {
    return await requestBody(c, limit);
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_SERVICE_BODY") throw cause;
    throw new KbsError("ERR_KBS_TOO_LARGE", cause.message, { cause });
  }
}

async function readValue(c: Context, limit: number, maxDepth: number): Promise<JsonValue> {
  const body = await readBody(c, limit);
  try {
    return parseJson(decodeUtf8(body, "the request body"), "the request body", { maxLength: limit, maxDepth });
  } catch (cause) {
    throw new KbsError("ERR_KBS_REQUEST", `the request body is not strict JSON: ${messageOf(cause)}`, { cause });
  }
}

async function readJson(c: Context, limit: number, maxDepth: number): Promise<JsonObject> {
  const body = asObject(await readValue(c, limit, maxDepth));
  if (body === undefined) throw badRequest("the request body is no JSON object");
  return body;
}

function badRequest(problem: string): KbsError {
  return new KbsError("ERR_KBS_REQUEST", problem);
}

function wrongVersion(version: JsonValue | undefined): KbsError {
  const found = typeof version === "string" ? JSON.stringify(version.slice(0, 40)) : "missing";
  return new KbsError("ERR_KBS_PROTOCOL", `version is ${found}, expected 0.4.0; 0.1.1 to 0.3 are taken as well`, {
    hint: "Use a guest of CoCo from 2024 or later.",
  });
}

function wrongPolicyId(id: JsonValue | undefined): KbsError {
  const found = typeof id === "string" ? JSON.stringify(id.slice(0, 40)) : "missing";
  return new KbsError("ERR_KBS_POLICY_SYNTAX", `policy_id is ${found}, expected "default_cpu": no other policy is applied here`);
}

/** The body names the check that failed: whoever holds the evidence can verify it as well, so this tells nobody a secret. */
function errorResponse(options: KbsAppOptions, error: Error, c: Context): Response {
  const { logger, id } = requestContext(c, options.logger);
  if (!(error instanceof KbsError) || error.row.http === 500) {
    logger.log("error", "request failed", { problem: messageOf(error), code: isSealpodError(error) ? error.code : undefined });
    return c.json({ type: `${ERROR_TYPE}InternalError`, detail: `The key broker failed. Id in its log: ${id}` }, 500);
  }
  const { check } = error.details;
  logger.log("warn", "request refused", { code: error.code, check: typeof check === "string" ? check : undefined, problem: error.message });
  const detail = error.hint === undefined ? error.message : `${error.message}. ${error.hint}`;
  return c.json({ type: `${ERROR_TYPE}${WIRE_KINDS[error.code]}`, detail }, error.details["status"] === USELESS["status"] ? 400 : error.row.http);
}
