import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseReport, REPORT_DATA_SIZE } from "@sealpod/snp";
import { fetchReport, serveTsm, TSM_REPORT_DIRECTORY, type TsmServer } from "@sealpod/tsm";
import type { Logger } from "@sealpod/core";
import type { HostProcessor } from "./channel/index.ts";
import { run } from "./command.ts";
import { shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";
import type { HostData } from "./set-policy.ts";

/** Where reports come from: the image says so on its measured command line, not the host. */
export type ReportKind =
  /** A directory that somebody else serves: the driver of process isolation. */
  | "directory"
  /** The host, over the channel: EMULATED. */
  | "channel"
  /** The kernel's configfs-tsm. */
  | "hardware";

/** Files beside the report interface: an endorsement, certificates, a notice. */
const MAX_FILES = 16;
/** An endorsement has some kilobytes; this is what the host may put into the guest's memory. */
const MAX_FILE_BYTES = 256 * 1024;
const FILE_PATH = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:\/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){0,3}$/;

/**
 * How the agent learns HOST_DATA of its machine. Not through the directory that containers see: one that runs as root could answer there.
 *
 * With process isolation there is no other place. So it is asked once, which is before the first container unless a policy that nobody verified lets one be made;
 * HOST_DATA of a machine never changes.
 * @param directory what somebody else serves; `processor` what the host serves over the channel; else the kernel's own
 * @throws {AgentError} ERR_AGENT_CONFIG if the host is to serve reports, and there is no channel to it
 */
export function ownHostData(kind: ReportKind, directory: string, processor?: HostProcessor): HostData {
  const zeros = new Uint8Array(REPORT_DATA_SIZE);
  if (kind === "channel") {
    if (processor === undefined) throw new AgentError("ERR_AGENT_CONFIG", "--reports channel needs a channel: --listen virtio:NAME");
    return async () => parseReport((await processor.getReport(zeros)).report).hostData;
  }
  const reports = kind === "hardware" ? TSM_REPORT_DIRECTORY : join(directory, "tsm", "report");
  let known: Uint8Array | undefined;
  return async () => (known ??= parseReport((await fetchReport(reports, zeros)).report).hostData);
}

/**
 * Makes the directory that containers see as `/run/sealpod` from what the host's processor gives, and serves its report interface as configfs-tsm.
 *
 * Everything in it is the host's word. So is HOST_DATA in these reports, by which the agent takes its policy: a host that lies about it gets an agent with
 * another policy, and a report that no verifier accepts.
 * @throws {AgentError} ERR_AGENT_REQUEST if the host's files are none that can lie there
 * @throws {MuxError}, {TtrpcError} if the host does not answer
 * @throws {TsmError} ERR_TSM_SERVE
 */
export async function serveHostReports(processor: HostProcessor, directory: string, logger: Logger): Promise<TsmServer> {
  const files = await processor.getFiles();
  if (files.length > MAX_FILES) throw new AgentError("ERR_AGENT_REQUEST", `the host's processor has ${files.length} files, expected at most ${MAX_FILES}`);
  for (const { path, data } of files) {
    // `tsm` is the interface's own: a file there would stand in the way of it.
    if (!FILE_PATH.test(path) || path === "tsm" || path.startsWith("tsm/"))
      throw new AgentError("ERR_AGENT_REQUEST", `the host's processor has a file ${shown(path)}`);
    if (data.length > MAX_FILE_BYTES) throw new AgentError("ERR_AGENT_REQUEST", `${shown(path)} of the host's processor has ${data.length} bytes`);
    mkdirSync(dirname(join(directory, path)), { recursive: true, mode: 0o755 });
    writeFileSync(join(directory, path), data, { mode: 0o644 });
  }
  const report = async (reportData: Uint8Array): Promise<{ report: Uint8Array; auxblob: Uint8Array }> => {
    // A report has room for 64 bytes; who asks for fewer means zeros behind them, as the kernel does.
    const padded = new Uint8Array(64);
    padded.set(reportData);
    const answer = await processor.getReport(padded);
    return { report: answer.report, auxblob: answer.certificates };
  };
  return serveTsm({ report }, join(directory, "tsm", "report"), { logger });
}

/**
 * Shows the kernel's report interface where containers look for it.
 * @throws {AgentError} ERR_AGENT_COMMAND if the kernel has none
 */
export async function bindKernelReports(directory: string): Promise<void> {
  const target = join(directory, "tsm", "report");
  mkdirSync(target, { recursive: true, mode: 0o755 });
  await run("/usr/bin/mount", ["-i", "--bind", "--", TSM_REPORT_DIRECTORY, target]);
}
