import { asObject, decodeUtf8, parseJson } from "@sealpod/core";

/** Characters of a service's own words that are passed on: enough for a reason, not for a page of HTML. */
const MAX_REASON = 1000;

/** Shorter texts are not taken for secrets: to blot them out would spoil the message and hide nothing. */
const MIN_SECRET = 6;

/** Why a service refused, in its own words: one line, no terminal controls, no secrets. */
export interface Reason {
  /** `error.code` of the Azure services, `error` of OAuth, the kind of a Trustee problem document. */
  readonly code: string | undefined;
  /** The innermost `innererror.code`: with it the Azure services tell refusals of one code apart. */
  readonly innerCode: string | undefined;
  /** `error.message`, `error_description`, `detail`, or what text there is. Never empty. */
  readonly text: string;
}

/** Codes are words; what else stands there is not repeated. */
const CODE = /^[A-Za-z][\w.-]{0,79}$/;

/**
 * Reads the body of a refusal.
 * @param secrets what the request carried and nobody may see, whatever the service answers
 */
export function parseReason(body: Uint8Array, secrets: readonly string[] = []): Reason {
  let text = "";
  let code: unknown;
  let innerCode: unknown;
  try {
    text = decodeUtf8(body);
    const object = asObject(parseJson(text));
    const error = object?.["error"];
    const azure = asObject(error);
    code = azure?.["code"] ?? error ?? object?.["type"];
    // A Trustee problem has a URL as its type, whose last part is the kind.
    if (typeof code === "string") code = code.slice(code.lastIndexOf("/") + 1);
    for (let inner = asObject(azure?.["innererror"]); inner !== undefined; inner = asObject(inner["innererror"])) innerCode = inner["code"] ?? innerCode;
    const reason = azure?.["message"] ?? object?.["error_description"] ?? object?.["detail"] ?? error ?? object?.["message"];
    if (typeof reason === "string") text = reason;
  } catch {
    // Not JSON, or not even text: what there is of it will do.
  }
  const clean = printable(redact(text, secrets));
  const word = (value: unknown): string | undefined => (typeof value === "string" && CODE.test(value) && redact(value, secrets) === value ? value : undefined);
  return { code: word(code), innerCode: word(innerCode), text: clean === "" ? "no reason given" : clean };
}

/** The reason for a message: `Forbidden/AccessDenied: …`, without the code where the text is the code. */
export function describeReason({ code, innerCode, text }: Reason): string {
  const codes = [code, innerCode].filter((value, index, all) => value !== undefined && all.indexOf(value) === index && value !== text);
  return codes.length === 0 ? text : `${codes.join("/")}: ${text}`;
}

/**
 * Takes secrets out of a text: those that are given, and whatever looks like a signed token, because services like to repeat
 * in an error what they were sent.
 */
export function redact(text: string, secrets: readonly string[] = []): string {
  let clean = text;
  for (const secret of secrets) if (secret.length >= MIN_SECRET) clean = clean.replaceAll(secret, "***");
  return clean.replaceAll(/\beyJ[\w-]{8,}\.[\w-]*(?:\.[\w-]*)*/g, "***");
}

/** One line that cannot steer the terminal which shows the log, and not endless. */
export function printable(text: string): string {
  const clean = text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, " ").trim();
  return clean.length > MAX_REASON ? `${clean.slice(0, MAX_REASON)}…` : clean;
}

/** What to check when an attestation service refused. */
export function attestationHint(status: number, endpoint: string, { text }: Reason): string {
  if (status === 404) return `Check maa_endpoint: is ${endpoint} the host name of an attestation provider (NAME.REGION.attest.azure.net, or Sealpod's)?`;
  if (status === 401) return "The attestation provider wants a bearer token for this request; the sidecar attests without one, as SEV-SNP attestation is open.";
  if (status === 403) return "The attestation provider's own policy refused the evidence: ask its owner for the policy for SevSnpVm.";
  if (/runtime/i.test(text))
    return "The provider found other runtime data than the report is bound to; runtime_data must be base64 of a JSON object, such as a key set.";
  if (status === 400)
    return "The provider could not verify the evidence: check that the certificates are for the report's TCB (certcache in SkrSideCarArgs), and that the provider trusts this kind of processor; an emulator's root must be allowed by name.";
  return "";
}

/** What to check when a key store refused to release a key. */
export function releaseHint(status: number, store: string, kid: string, attester: string, reason: Reason): string {
  const codes = `${reason.code ?? ""} ${reason.innerCode ?? ""}`;
  switch (status) {
    case 400:
      return "Check that the key is exportable and has a release policy, that it is of type oct-HSM, RSA-HSM or EC-HSM, and that its store knows the attestation provider.";
    case 401:
      return "The store did not take the access token: it may have expired (a stale access_token of the caller's), or be for another resource or tenant than the store's.";
    case 404:
      return `Check the name and the version of key ${JSON.stringify(kid)}, and that ${store} is the store that has it; a deleted key must be recovered first.`;
    case 403:
      if (/Firewall|Connection|VNet|PublicNetwork/i.test(codes)) return "The store's network rules refuse this client's address.";
      if (/ReleasePolicy/i.test(codes) || /release policy|attestation|environment assertion|AKV\.SKR/i.test(reason.text)) {
        return `What this pod is, is not what the key's release policy asks for. Check (1) its host data: the hash of the pod's policy changes with each edit of the YAML and each run of genpolicy, and must then be set anew in the release policy; (2) its authority: it must be https://${attester}; (3) the other claims, with a token of POST /attest/maa.`;
      }
      if (/Rbac|AccessDenied|ForbiddenByPolicy|Authorization/i.test(codes) || /permission|not authorized|role/i.test(reason.text)) {
        return "The pod's identity may not release this key. Give it the key permission release (access policies), or the role Key Vault Crypto Service Release User or Managed HSM Crypto Service Release User; a new role takes minutes to take effect.";
      }
      return "Either the pod's identity may not release keys here (key permission release, or the role for release), or the pod is not what the key's release policy asks for (its host data change with each edit of the YAML).";
    default:
      return "";
  }
}

/** What to check when an identity service refused. */
export function identityHint({ code, text }: Reason): string {
  // AADSTS error numbers (specs/attestation.md 8.4).
  switch (/\bAADSTS(\d{5,7})\b/.exec(text)?.[1]) {
    case "70021":
    case "700211":
    case "700213":
      return "The federated credential must name issuer, subject (system:serviceaccount:NAMESPACE:NAME) and audience exactly as above: a slash at the issuer's end and case count. A new credential takes minutes to take effect.";
    case "700024":
      return "The pod's service account token has expired: is its file still renewed, and is the clock right?";
    case "700016":
      return "AZURE_CLIENT_ID names no application or identity of the tenant AZURE_TENANT_ID.";
    case "90061":
      return "The identity service cannot reach the cluster's issuer.";
    default:
      break;
  }
  if (/identity not found/i.test(text) || code === "invalid_request")
    return "Without AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_FEDERATED_TOKEN_FILE the node's own identity is used: assign one to the node, and name its client id in SkrSideCarArgs (identity.client_id).";
  return "";
}
