import { type Clock, concatBytes, type Random, toHex } from "@sealpod/core";
import { encodeUvmEndorsement, type UvmTrust } from "@sealpod/cose";
import { encodeCertificatesPem } from "@sealpod/pki";
import {
  CERTIFICATE_GUIDS,
  encodeCertificateTable,
  encodeThim,
  formatTcbNumber,
  HOST_DATA_SIZE,
  LaunchMeasurement,
  type LaunchPage,
  REPORT_DATA_SIZE,
  type Report,
  signReport,
  type TrustRoot,
  trustRootOf,
} from "@sealpod/snp";
import { EMULATOR_ROOT_NAME, LAPTOP_UVM_FEED, LAPTOP_UVM_SVN } from "./emulated.ts";
import { PspError } from "./errors.ts";
import { EMULATED_TCB, openKeys, type PspKeys } from "./key-store.ts";

/** Ports of {@link SecurityProcessor}. */
export interface SecurityProcessorPorts {
  readonly clock: Clock;
  readonly random: Random;
}

/** What a host gives when it launches a guest. */
export interface LaunchInput {
  /** Measured in order. */
  readonly pages: Iterable<LaunchPage> | AsyncIterable<LaunchPage>;
  /** 32 bytes. */
  readonly hostData: Uint8Array;
  /** POLICY; by default ABI 0.31, SMT allowed, no debugging, no migration. */
  readonly policy?: bigint;
}

/** A guest that was launched: its measurement is fixed, and it can ask for reports until it is closed. */
export interface LaunchedGuest {
  /** 32 hex digits, unpredictable. */
  readonly id: string;
  /** Launch measurement, 48 bytes. */
  readonly measurement: Uint8Array;
  readonly hostData: Uint8Array;
  /**
   * A signed version 3 report, 1184 bytes.
   * @param reportData up to 64 bytes; shorter ones are padded with zeros
   * @throws {PspError} ERR_PSP_INPUT, ERR_PSP_CLOSED
   */
  report(reportData: Uint8Array): Uint8Array;
  /** VCEK, ASK and ARK as the certificate table of an extended report. */
  certificateTable(): Uint8Array;
  /** The laptop's signed statement (COSE_Sign1) about this guest's measurement. */
  uvmEndorsement(): Uint8Array;
  /** VCEK, ASK and ARK as the JSON document of Azure's THIM. */
  thimCertificates(): string;
  close(): void;
}

/** POLICY of genuine Azure guests: ABI 0.31, SMT allowed, bit 17. */
const DEFAULT_POLICY = 0x3001fn;

/** Most guests at a time: far above what one laptop runs, and it bounds the memory that a client of the socket can take. */
export const MAX_GUESTS = 256;

/**
 * The emulated security processor. It signs real-format reports with a key of its own making: EMULATED - NO HARDWARE PROTECTION.
 * Whoever can read its directory can forge any report, which is why verifiers refuse its root unless they are told its name.
 */
export class SecurityProcessor {
  readonly #keys: PspKeys;
  readonly #ports: SecurityProcessorPorts;
  readonly #guests = new Map<string, LaunchedGuest>();

  private constructor(keys: PspKeys, ports: SecurityProcessorPorts) {
    this.#keys = keys;
    this.#ports = ports;
  }

  /**
   * Opens the processor whose keys are in a directory; on first use makes them.
   * @throws {PspError} ERR_PSP_STATE
   */
  static async open(directory: string, ports: SecurityProcessorPorts): Promise<SecurityProcessor> {
    return new SecurityProcessor(await openKeys(directory, ports), ports);
  }

  /** The root that a verifier must name to accept this processor's reports. */
  get trustRoot(): TrustRoot {
    return trustRootOf(this.#keys.chain.root, EMULATOR_ROOT_NAME, "Milan");
  }

  /** PEM of the root alone, for who names it: `sealpod attest verify --trust emulator=FILE`. */
  get rootPem(): string {
    return encodeCertificatesPem([this.#keys.chain.root]);
  }

  /** PEM of VCEK, ASK and ARK. */
  get chainPem(): string {
    const { endorsementKey, intermediate, root } = this.#keys.chain;
    return encodeCertificatesPem([endorsementKey, intermediate, root]);
  }

  /** Who signs endorsements for what this laptop launched, and for which feed. What to claim about it is the verifier's choice. */
  get uvmTrust(): Omit<UvmTrust, "claim"> {
    return { issuer: this.#keys.uvmIssuer, feed: LAPTOP_UVM_FEED, minimumSvn: LAPTOP_UVM_SVN };
  }

  /**
   * Measures the pages and fixes HOST_DATA and POLICY, as SNP_LAUNCH_FINISH does.
   * @throws {PspError} ERR_PSP_INPUT, ERR_PSP_LIMIT
   * @throws {SnpError} ERR_SNP_PAGE, ERR_SNP_RESERVED
   */
  async launch(input: LaunchInput): Promise<LaunchedGuest> {
    if (input.hostData.length !== HOST_DATA_SIZE) {
      throw new PspError("ERR_PSP_INPUT", `HOST_DATA of ${input.hostData.length} bytes, expected ${HOST_DATA_SIZE}`, {
        details: { found: input.hostData.length },
      });
    }
    const hostData = Uint8Array.from(input.hostData);
    const chain = new LaunchMeasurement();
    for await (const page of input.pages) chain.add(page);
    if (this.#guests.size >= MAX_GUESTS)
      throw new PspError("ERR_PSP_LIMIT", `${MAX_GUESTS} guests are running, which is the limit`, { details: { limit: MAX_GUESTS } });
    const id = toHex(this.#ports.random.bytes(16));
    const report = emulatedReport({
      policy: input.policy ?? DEFAULT_POLICY,
      measurement: chain.digest(),
      hostData,
      chipId: this.#keys.chipId,
      reportId: this.#ports.random.bytes(32),
    });
    const guest = new EmulatedGuest(id, report, this.#keys, this.#ports.clock, () => this.#guests.delete(id));
    // A policy that no report may state shows now, not when the guest asks for its first report.
    guest.report(new Uint8Array(REPORT_DATA_SIZE));
    this.#guests.set(id, guest);
    return guest;
  }
}

class EmulatedGuest implements LaunchedGuest {
  readonly id: string;
  readonly #report: Omit<Report, "signature">;
  readonly #keys: PspKeys;
  readonly #clock: Clock;
  readonly #onClose: () => void;
  #closed = false;

  constructor(id: string, report: Omit<Report, "signature">, keys: PspKeys, clock: Clock, onClose: () => void) {
    this.id = id;
    this.#report = report;
    this.#keys = keys;
    this.#clock = clock;
    this.#onClose = onClose;
  }

  get measurement(): Uint8Array {
    return Uint8Array.from(this.#report.measurement);
  }

  get hostData(): Uint8Array {
    return Uint8Array.from(this.#report.hostData);
  }

  report(reportData: Uint8Array): Uint8Array {
    if (this.#closed) throw new PspError("ERR_PSP_CLOSED", `guest ${this.id} was closed`);
    if (reportData.length > REPORT_DATA_SIZE)
      throw new PspError("ERR_PSP_INPUT", `REPORT_DATA of ${reportData.length} bytes, expected up to ${REPORT_DATA_SIZE}`);
    const padded = concatBytes(reportData, new Uint8Array(REPORT_DATA_SIZE - reportData.length));
    return signReport({ ...this.#report, reportData: padded }, this.#keys.vcekKey);
  }

  certificateTable(): Uint8Array {
    const { endorsementKey, intermediate, root } = this.#keys.chain;
    return encodeCertificateTable([
      { guid: CERTIFICATE_GUIDS.vcek, data: endorsementKey.der },
      { guid: CERTIFICATE_GUIDS.ask, data: intermediate.der },
      { guid: CERTIFICATE_GUIDS.ark, data: root.der },
    ]);
  }

  uvmEndorsement(): Uint8Array {
    return encodeUvmEndorsement({
      issuer: this.#keys.uvmIssuer,
      feed: LAPTOP_UVM_FEED,
      svn: LAPTOP_UVM_SVN,
      launchMeasurement: this.#report.measurement,
      signingTime: this.#clock.now(),
      chain: this.#keys.uvmChain,
      key: this.#keys.uvmKey,
      algorithm: "ES384",
    });
  }

  thimCertificates(): string {
    const { endorsementKey, intermediate, root } = this.#keys.chain;
    return encodeThim({
      vcekCert: encodeCertificatesPem([endorsementKey]),
      tcbm: formatTcbNumber(EMULATED_TCB),
      certificateChain: encodeCertificatesPem([intermediate, root]),
      cacheControl: "86400",
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#onClose();
  }
}

/** The report of a Milan host with firmware 1.55.29, as a guest without ID block gets it. */
function emulatedReport(input: {
  readonly policy: bigint;
  readonly measurement: Uint8Array;
  readonly hostData: Uint8Array;
  readonly chipId: Uint8Array;
  readonly reportId: Uint8Array;
}): Omit<Report, "signature"> {
  const firmware = { major: 1, minor: 55, build: 29 };
  return {
    version: 3,
    guestSvn: 0,
    policy: input.policy,
    familyId: new Uint8Array(16),
    imageId: new Uint8Array(16),
    vmpl: 0,
    currentTcb: EMULATED_TCB,
    // SMT_EN, ECC_EN and ALIAS_CHECK_COMPLETE, as genuine hosts report.
    platformInfo: 0x25n,
    keyInfo: { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "vcek" },
    reportData: new Uint8Array(REPORT_DATA_SIZE),
    measurement: input.measurement,
    hostData: input.hostData,
    idKeyDigest: new Uint8Array(48),
    authorKeyDigest: new Uint8Array(48),
    reportId: input.reportId,
    reportIdMa: new Uint8Array(32).fill(0xff),
    reportedTcb: EMULATED_TCB,
    processor: { family: 0x19, model: 0x01, stepping: 0x01 },
    chipId: input.chipId,
    committedTcb: EMULATED_TCB,
    currentFirmware: firmware,
    committedFirmware: firmware,
    launchTcb: EMULATED_TCB,
    launchMitigations: 0n,
    currentMitigations: 0n,
  };
}
