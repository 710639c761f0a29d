/**
 * Drives a service with the genuine client: `node attestation-client.ts '{"endpoint", "token", "steps": […]}'`. It runs as a program of its own because the client
 * takes trusted certificates from NODE_EXTRA_CA_CERTS alone. Prints one JSON line: what each step gave, or the error that it ended with.
 */
import { AttestationAdministrationClient, AttestationClient, type AttestationResponse } from "@azure/attestation";
import type { AccessToken, TokenCredential } from "@azure/core-auth";

/** What the program is told. */
export interface ClientRun {
  readonly endpoint: string;
  /** Bearer token of the administrator. */
  readonly token: string;
  readonly steps: readonly ClientStep[];
}

/** One call of the client. */
export type ClientStep =
  | { readonly call: "openIdMetadata" | "signers" | "getCertificates" }
  | { readonly call: "getPolicy"; readonly type: string }
  | { readonly call: "setPolicy"; readonly type: string; readonly policy: string; readonly signer?: Signer }
  | { readonly call: "resetPolicy"; readonly type: string; readonly signer?: Signer }
  | { readonly call: "addCertificate" | "removeCertificate"; readonly certificate: string; readonly signer: Signer };

/** PEM texts. */
export interface Signer {
  readonly privateKey: string;
  readonly certificate: string;
}

/** What a step gave. */
export type ClientOutcome =
  | { readonly value: unknown; readonly claims?: unknown }
  | { readonly error: string; readonly code: string | undefined; readonly status: number | undefined };

const run = JSON.parse(process.argv[2] ?? "{}") as ClientRun;
const credential: TokenCredential = {
  getToken: async (): Promise<AccessToken> => Promise.resolve({ token: run.token, expiresOnTimestamp: Date.now() + 3_600_000 }),
};
const anonymous = new AttestationClient(run.endpoint);
const administrator = new AttestationAdministrationClient(run.endpoint, credential);

const outcomes: ClientOutcome[] = [];
for (const step of run.steps) {
  try {
    outcomes.push(await perform(step));
  } catch (error) {
    const { message, code, statusCode } = error as Error & { readonly code?: string; readonly statusCode?: number };
    outcomes.push({ error: message, code, status: statusCode });
  }
}
process.stdout.write(`${JSON.stringify(outcomes)}\n`);

async function perform(step: ClientStep): Promise<ClientOutcome> {
  switch (step.call) {
    case "openIdMetadata":
      return { value: await anonymous.getOpenIdMetadata() };
    case "signers":
      return { value: await anonymous.getAttestationSigners() };
    case "getCertificates":
      return answer(await administrator.getPolicyManagementCertificates());
    case "getPolicy":
      return answer(await administrator.getPolicy(step.type));
    case "setPolicy":
      return answer(await administrator.setPolicy(step.type, step.policy, step.signer ?? {}));
    case "resetPolicy":
      return answer(await administrator.resetPolicy(step.type, step.signer ?? {}));
    case "addCertificate":
      return answer(await administrator.addPolicyManagementCertificate(step.certificate, step.signer.privateKey, step.signer.certificate));
    case "removeCertificate":
      return answer(await administrator.removePolicyManagementCertificate(step.certificate, step.signer.privateKey, step.signer.certificate));
  }
}

/** The value, and the claims of the token that the client has verified. */
function answer<T>({ body, token }: AttestationResponse<T>): ClientOutcome {
  return { value: body, claims: token.getBody() };
}
