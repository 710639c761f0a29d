import { mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { encodeUtf8, type Logger, toBase64 } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import type { GuestFile } from "@sealpod/processor";
import { type ReportProvider, serveTsm } from "@sealpod/tsm";
import { EMULATED_NOTICE } from "./emulated.ts";
import type { LaunchedGuest } from "./security-processor.ts";

/** The directory that a guest sees as `/run/sealpod`, while it is served. */
export interface GuestInfo {
  readonly directory: string;
  /** What is in it beside the report interface. */
  readonly files: readonly GuestFile[];
  /** Stops serving and removes the directory. */
  close(): Promise<void>;
}

/**
 * What a guest finds in `/run/sealpod` beside the report interface, made once: a signature differs each time that it is made.
 * - `security-context/reference-info-base64`: the laptop's endorsement of the launch measurement (COSE_Sign1).
 * - `security-context/host-amd-cert-base64`: VCEK, ASK and ARK (THIM's JSON).
 * - `EMULATED`: a text that says so.
 */
function guestFiles(guest: LaunchedGuest): readonly GuestFile[] {
  const notice = `${EMULATED_NOTICE}\nReports and endorsements in this directory are made by Sealpod's emulated security processor.\n`;
  return [
    { path: "EMULATED", data: encodeUtf8(notice) },
    { path: "security-context/reference-info-base64", data: encodeUtf8(toBase64(guest.uvmEndorsement())) },
    { path: "security-context/host-amd-cert-base64", data: encodeUtf8(toBase64(encodeUtf8(guest.thimCertificates()))) },
  ];
}

/**
 * Makes and serves the guest's directory, `<base>/<guest id>`: its files, and the report interface, as configfs-tsm, in `tsm/report/`.
 * @throws {TsmError} ERR_TSM_SERVE
 * @throws {IoError} ERR_IO_WRITE
 */
export async function serveGuestInfo(guest: LaunchedGuest, base: string, options: { readonly logger: Logger }): Promise<GuestInfo> {
  const directory = join(base, guest.id);
  const remove = async (): Promise<void> => rm(directory, { recursive: true, force: true, maxRetries: 3 });
  try {
    const files = guestFiles(guest);
    for (const { path, data } of files) {
      await mkdir(dirname(join(directory, path)), { recursive: true, mode: 0o755 });
      await writeFileAtomic(join(directory, path), data, 0o644);
    }
    const provider: ReportProvider = { report: (reportData) => ({ report: guest.report(reportData), auxblob: guest.certificateTable() }) };
    const server = await serveTsm(provider, join(directory, "tsm", "report"), options);
    return {
      directory,
      files,
      async close() {
        await server.close();
        await remove();
      },
    };
  } catch (error) {
    await remove();
    throw error;
  }
}
