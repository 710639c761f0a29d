import { TsmError } from "./errors.ts";
import type { EvidenceSource } from "./evidence.ts";
import { TSM_REPORT_DIRECTORY } from "./fetch-report.ts";
import { openSevGuestSource, SEV_GUEST_DEVICE } from "./sev-guest.ts";
import { openTsmSource } from "./tsm-source.ts";

/** Where Sealpod's emulator shows its reports inside the sandbox. */
export const EMULATED_REPORT_DIRECTORY = "/run/sealpod/tsm/report";

/** Options of {@link openEvidenceSource}. */
export interface OpenEvidenceSourceOptions {
  /** Default {@link TSM_REPORT_DIRECTORY}. */
  readonly tsmDirectory?: string;
  /** Default {@link SEV_GUEST_DEVICE}. */
  readonly sevGuestDevice?: string;
  /** Default {@link EMULATED_REPORT_DIRECTORY}. */
  readonly emulatorDirectory?: string;
  /** Absolute path of perl for the device; default /usr/bin/perl. */
  readonly perl?: string;
  /** The provider that must answer behind the directories; default "sev_guest". */
  readonly provider?: string;
}

/**
 * Opens the first source of evidence that this machine has: configfs-tsm, then the device, which needs perl, then the emulator. Hardware goes before the emulator, so that nobody who can make
 * a directory can make a machine with SEV-SNP give emulated evidence.
 * @throws {TsmError} ERR_TSM_UNAVAILABLE, which says for each what was looked for and what to do
 */
export async function openEvidenceSource(options: OpenEvidenceSourceOptions = {}): Promise<EvidenceSource> {
  const provider = options.provider === undefined ? {} : { provider: options.provider };
  const device = options.sevGuestDevice ?? SEV_GUEST_DEVICE;
  const candidates: readonly (readonly [name: string, open: () => Promise<EvidenceSource>])[] = [
    ["configfs-tsm", async () => openTsmSource(options.tsmDirectory ?? TSM_REPORT_DIRECTORY, provider)],
    ["sev-guest", async () => openSevGuestSource({ device, ...(options.perl !== undefined && { perl: options.perl }) })],
    ["emulator", async () => openTsmSource(options.emulatorDirectory ?? EMULATED_REPORT_DIRECTORY, provider)],
  ];
  const problems: string[] = [];
  for (const [name, open] of candidates) {
    try {
      return await open();
    } catch (error) {
      if (!(error instanceof TsmError)) throw error;
      problems.push(`${name}: ${error.message}`);
    }
  }
  throw new TsmError("ERR_TSM_UNAVAILABLE", `this machine has no source of attestation reports. Looked for ${problems.join("; ")}`, {
    details: { problems },
    hint: `In an SEV-SNP guest: Linux 6.7 or later with configfs mounted and the module sev-guest loaded gives configfs-tsm (the only way in a utility VM, which has no perl); before that, ${device} with perl-base installed. On a laptop the emulator gives reports about pods alone, to the programs inside: start one with \`sealpod run\` (\`sealpod up\` by itself launches nothing that a report could be about). From outside, its interface is the directory guests/ID/tsm/report in the state directory.`,
  });
}
