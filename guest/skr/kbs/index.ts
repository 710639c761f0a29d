export { kbsBackend, kbsBase } from "./backend.ts";
export { guestApi, secretUnsealer, type GuestApi, type GuestApiOptions, type GuestApiRequest, type GuestApiResponse } from "./guest-api.ts";
export { guestListener } from "./guest-listener.ts";
export { attestToKbs, evidenceOver, kbsReportData, openResource, resourceToJwk, type KbsOptions, type KbsSession } from "./kbs-client.ts";
export { formatResource, parseResource, type KbsResource } from "./resource-uri.ts";
export { unsealSecret } from "./sealed-secret.ts";
export { parseKbsSettings, type KbsSettings } from "./settings.ts";
export { encodeSnpEvidence } from "./snp-evidence.ts";
