import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@sealpod/proto";
import { processorApi } from "@sealpod/proto";
import { TtrpcClient } from "@sealpod/ttrpc";
import type { Channel } from "./channel.ts";

/** Milliseconds that the host's processor may take: it signs in one, and a busy host needs time to begin. */
const CALL_LIMIT = 30_000;

const { getReport, getFiles } = processorApi.SecurityProcessor.method;

/** The security processor of a machine that has none of its own: EMULATED, by the host, over the channel. */
export interface HostProcessor {
  /**
   * A report over 64 bytes of the caller's choice, and the certificate table that goes with it. Both are the host's word; a verifier judges them.
   * @throws {TtrpcError} whatever the call fails with
   * @throws {MuxError} ERR_MUX_REFUSED if the host has no such processor
   */
  getReport(reportData: Uint8Array): Promise<processorApi.GetReportResponse>;
  /** The files that stand beside the report interface. Their paths are the host's choice: whoever writes them has to check them. */
  getFiles(): Promise<readonly processorApi.GuestFile[]>;
}

/** Asks the processor over one stream, which is opened when it is needed, and again when it has ended. */
export function hostProcessor(channel: Pick<Channel, "open">): HostProcessor {
  let connection: Promise<TtrpcClient> | undefined;
  const connected = (): Promise<TtrpcClient> => {
    if (connection !== undefined) return connection;
    const opening = channel.open("processor").then((stream) => new TtrpcClient(stream));
    connection = opening;
    // What has ended, or failed to open, is opened anew by the next call.
    const forget = (): void => {
      if (connection === opening) connection = undefined;
    };
    opening.then((client) => client.closed).then(forget, forget);
    return opening;
  };
  const call = async <I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, request: MessageInitShape<I>): Promise<MessageShape<O>> =>
    (await connected()).unary(method, request, { timeoutMs: CALL_LIMIT });
  return {
    getReport: (reportData) => call(getReport, { reportData }),
    getFiles: async () => (await call(getFiles, {})).files,
  };
}
