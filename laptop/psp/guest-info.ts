import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { encodeUtf8, type Logger, toBase64 } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import { EMULATED_NOTICE } from "./emulated.ts";
import type { LaunchedGuest } from "./security-processor.ts";
import { serveTsm } from "./tsm-directory.ts";

/** The directory that a guest sees as `/run/sealpod`, while it is served. */
export interface GuestInfo {
  readonly directory: string;
  /** Stops serving and removes the directory. */
  close(): Promise<void>;
}

/**
 * Makes and serves the guest's directory, `<base>/<guest id>`:
 * - `tsm/report/`: the report interface, as configfs-tsm.
 * - `security-context/reference-info-base64`: the laptop's endorsement of the launch measurement (COSE_Sign1).
 * - `security-context/host-amd-cert-base64`: VCEK, ASK and ARK (THIM's JSON).
 * - `EMULATED`: a text that says so.
 * @throws {PspError} ERR_PSP_TSM
 * @throws {IoError} ERR_IO_WRITE
 */
export async function serveGuestInfo(guest: LaunchedGuest, base: string, options: { readonly logger: Logger }): Promise<GuestInfo> {
  const directory = join(base, guest.id);
  const remove = async (): Promise<void> => rm(directory, { recursive: true, force: true, maxRetries: 3 });
  try {
    const context = join(directory, "security-context");
    await mkdir(context, { recursive: true, mode: 0o755 });
    const files: readonly (readonly [string, Uint8Array])[] = [
      [
        join(directory, "EMULATED"),
        encodeUtf8(`${EMULATED_NOTICE}\nReports and endorsements in this directory are made by Sealpod's emulated security processor.\n`),
      ],
      [join(context, "reference-info-base64"), encodeUtf8(toBase64(guest.uvmEndorsement()))],
      [join(context, "host-amd-cert-base64"), encodeUtf8(toBase64(encodeUtf8(guest.thimCertificates())))],
    ];
    for (const [path, bytes] of files) await writeFileAtomic(path, bytes, 0o644);
    const server = await serveTsm(guest, join(directory, "tsm", "report"), options);
    return {
      directory,
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
