import { encodeUtf8, equalBytes, sha256, toHex } from "@sealpod/core";
import { AgentError } from "./errors.ts";

/** Gives HOST_DATA of this machine, 32 bytes, from its own attestation report, past everything that a container can touch. */
export type HostData = () => Promise<Uint8Array>;

/** HOST_DATA is as long as a SHA-256. Longer digests are cut, shorter ones padded with zeros at the end (specs/runtime.md 3.6). */
const HOST_DATA_SIZE = 32;

/**
 * Checks that a policy is the one this machine was launched for: HOST_DATA of its own attestation report is the SHA-256 of the text (specs/runtime.md 3.4).
 *
 * The host chose HOST_DATA, but only once, before launch, and every verifier sees it. So the host can bring another policy, but not without telling
 * the key service, which then gives it nothing. The report's signature is not checked here: it comes from this machine's own processor, through its own
 * kernel, and who could forge it could forge the answer of a check.
 *
 * @throws {AgentError} ERR_AGENT_HOST_DATA
 * @throws what `hostData` throws
 */
export async function verifyHostData(policy: string, hostData: HostData): Promise<void> {
  await requireHostData(sha256(encodeUtf8(policy)), { what: "the policy's SHA-256", hostData });
}

/**
 * Checks that HOST_DATA of this machine is a digest.
 * @param digest of any length
 * @throws {AgentError} ERR_AGENT_HOST_DATA
 * @throws what `hostData` throws
 */
export async function requireHostData(digest: Uint8Array, options: { readonly what: string; readonly hostData: HostData }): Promise<void> {
  const { what } = options;
  const hostData = await options.hostData();
  const found = new Uint8Array(HOST_DATA_SIZE);
  found.set(digest.subarray(0, HOST_DATA_SIZE));
  if (equalBytes(hostData, found)) return;
  throw new AgentError("ERR_AGENT_HOST_DATA", `${what} is ${toHex(found)}, but HOST_DATA of this machine is ${toHex(hostData)}`, {
    details: { found: toHex(found), expected: toHex(hostData) },
    hint: "It was changed after the machine was launched, or the machine was launched for another one.",
  });
}
