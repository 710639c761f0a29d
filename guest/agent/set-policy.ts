import { encodeUtf8, equalBytes, sha256, toHex } from "@sealpod/core";
import { parseReport, REPORT_DATA_SIZE } from "@sealpod/snp";
import { fetchReport } from "@sealpod/tsm";
import { AgentError } from "./errors.ts";

/**
 * Checks that a policy is the one this machine was launched for: HOST_DATA of its own attestation report is the SHA-256 of the text (specs/runtime.md 3.4).
 *
 * The host chose HOST_DATA, but only once, before launch, and every verifier sees it. So the host can bring another policy, but not without telling
 * the key service, which then gives it nothing. The report's signature is not checked here: it comes from this machine's own processor, through its own
 * kernel, and who could forge it could forge the answer of a check.
 *
 * @param reports directory of the report interface (configfs-tsm)
 * @throws {AgentError} ERR_AGENT_HOST_DATA
 * @throws {TsmError} if there is no report
 */
export async function verifyHostData(policy: string, reports: string): Promise<void> {
  const { report } = await fetchReport(reports, new Uint8Array(REPORT_DATA_SIZE));
  const { hostData } = parseReport(report);
  const digest = sha256(encodeUtf8(policy));
  if (equalBytes(hostData, digest)) return;
  throw new AgentError("ERR_AGENT_HOST_DATA", `the policy's SHA-256 is ${toHex(digest)}, but HOST_DATA of this machine is ${toHex(hostData)}`, {
    details: { found: toHex(digest), expected: toHex(hostData) },
    hint: "The policy was changed after the machine was launched, or the machine was launched for another one.",
  });
}
