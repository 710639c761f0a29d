import { concatBytes, decodeUtf8, fromHex, isSealpodError, sha256, toHex, type JsonObject } from "@sealpod/core";
import { anyReportPolicy, HOST_VMPL, parseReportPolicy, PRODUCT_NAMES, type MinimumTcb, type ReportPolicy, type TcbComponent } from "@sealpod/snp";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { readBytes, readText } from "../workspace.ts";
import { withoutPrefix } from "./measure-input.ts";
import type { CheckLine, VerifyFlags } from "./verify-options.ts";

/** What the command line asks of evidence, besides that it is genuine. */
export interface Requirements {
  readonly policy: ReportPolicy;
  /** Data whose SHA-256 REPORT_DATA must be. */
  readonly runtimeData: Uint8Array | undefined;
}

const GUEST_VMPLS: readonly number[] = [0, 1, 2, 3];
const COMPONENTS: readonly TcbComponent[] = ["fmc", "bootloader", "tee", "snp", "microcode"];

/**
 * What the flags for single fields ask, without what holds when nothing is asked.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE
 */
export async function readStated(flags: VerifyFlags, context: CliContext): Promise<Partial<ReportPolicy>> {
  return {
    ...(flags.hostData !== undefined && { hostData: await hostData(flags.hostData, context) }),
    ...(flags.reportData !== undefined && { reportData: await reportData("--report-data", flags.reportData, context) }),
    ...(flags.measurement !== undefined && { measurements: flags.measurement.map((text) => hexOf("--measurement", text, 48)) }),
    ...(flags.vmpl !== undefined && { vmpls: flags.vmpl.map(parseReportVmpl) }),
    ...(flags.minTcb !== undefined && { minimumTcb: minimumTcb(flags.minTcb) }),
  };
}

/**
 * Reads the requirements of the command line. Without a policy document two are always there: no debugging, and a report that the guest asked for, not the host.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE, and the errors of a policy document
 */
export async function readRequirements(flags: VerifyFlags, context: CliContext): Promise<Requirements> {
  const stated = await readStated(flags, context);
  if (flags.reportData !== undefined && flags.runtimeData !== undefined) throw usage("--report-data and --runtime-data both say what REPORT_DATA must be");
  const runtimeData = flags.runtimeData === undefined ? undefined : await readBytes(flags.runtimeData, context);
  if (flags.policy === undefined) {
    const policy: ReportPolicy = { ...anyReportPolicy(), vmpls: GUEST_VMPLS, debug: flags.allowDebug === true ? "any" : "forbidden", ...stated };
    return { policy, runtimeData };
  }
  if (flags.allowDebug === true) throw usage("--allow-debug and --policy both say whether debugging is allowed", 'Write "debug": "any" into the policy.');
  const { text, name } = await readText(flags.policy, context);
  const document = parseReportPolicy(text, name);
  for (const check of Object.keys(stated) as (keyof ReportPolicy)[]) {
    // Two requirements for one field: to let either win would drop the other in silence.
    if (document[check] !== "any") throw usage(`${flags.policy} and the command line both state ${check}`, "Leave one of them out.");
  }
  if (runtimeData !== undefined && document.reportData !== "any")
    throw usage(`${flags.policy} and --runtime-data both say what REPORT_DATA must be`, "Leave one of them out.");
  return { policy: { ...document, ...stated }, runtimeData };
}

/** REPORT_DATA that binds some data: their SHA-256, then zeros (specs/attestation.md section 4.2). */
export function reportDataOver(data: Uint8Array): Uint8Array {
  return concatBytes(sha256(data), new Uint8Array(32));
}

/**
 * REPORT_DATA of the command line: 1 to 64 bytes in hex, or a file with them as bytes or hex; padded with zeros as the kernel does.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE
 */
export async function reportData(flag: string, value: string, context: CliContext): Promise<Uint8Array> {
  let bytes: Uint8Array;
  if (value.startsWith("@")) {
    const file = await readBytes(value.slice(1), context);
    bytes = file.length === 64 ? file : hexOf(`${flag} ${value}`, asciiOf(file).trim());
  } else bytes = hexOf(flag, value);
  if (bytes.length < 1 || bytes.length > 64) throw usage(`${flag}: ${bytes.length} bytes, expected 1 to 64`);
  const padded = new Uint8Array(64);
  padded.set(bytes);
  return padded;
}

async function hostData(value: string, context: CliContext): Promise<Uint8Array> {
  return value.startsWith("@") ? sha256(await readBytes(value.slice(1), context)) : hexOf("--host-data", value, 32);
}

/** The VMPL of an option. */
export function parseVmpl(text: string): number {
  if (!/^[0-3]$/.test(text)) throw usage(`--vmpl ${text}: expected 0, 1, 2 or 3`);
  return Number(text);
}

/** The VMPL of a report: also that of a report that the host asked for, if somebody names it. */
function parseReportVmpl(text: string): number {
  if (/^(host|0xffffffff|4294967295)$/i.test(text)) return HOST_VMPL;
  if (/^[0-3]$/.test(text)) return Number(text);
  throw usage(`--vmpl ${text}: expected 0, 1, 2 or 3, or host for a report that the host asked for (0xffffffff)`);
}

/** The same levels for each product; FMC exists from Turin on, so who asks for it asks for such a product. */
function minimumTcb(text: string): ReportPolicy["minimumTcb"] {
  const minimum: Partial<Record<TcbComponent, number>> = {};
  for (const item of text.split(",")) {
    const [name, level, rest] = item.split("=");
    const component = COMPONENTS.find((one) => one === name?.trim());
    if (component === undefined || level === undefined || rest !== undefined || !/^\d{1,3}$/.test(level.trim()) || Number(level) > 255) {
      throw usage(
        `--min-tcb: ${JSON.stringify(item)} is not understood`,
        `Write levels from 0 to 255 as ${COMPONENTS.join("=N,")}=N; those that are left out are not compared.`,
      );
    }
    if (minimum[component] !== undefined) throw usage(`--min-tcb: ${component} twice`);
    minimum[component] = Number(level);
  }
  const products = PRODUCT_NAMES.filter((product) => minimum.fmc === undefined || product === "Turin");
  return Object.fromEntries(products.map((product): readonly [string, MinimumTcb] => [product, minimum]));
}

/** What the requirements are called in tokens of Azure's attestation service (specs/attestation.md section 4.3). */
const CLAIM = {
  hostData: "x-ms-sevsnpvm-hostdata",
  reportData: "x-ms-sevsnpvm-reportdata",
  measurement: "x-ms-sevsnpvm-launchmeasurement",
  vmpl: "x-ms-sevsnpvm-vmpl",
  debug: "x-ms-sevsnpvm-is-debuggable",
} as const;

const TCB_CLAIMS: Readonly<Record<TcbComponent, string | undefined>> = {
  fmc: undefined,
  bootloader: "x-ms-sevsnpvm-bootloader-svn",
  tee: "x-ms-sevsnpvm-tee-svn",
  snp: "x-ms-sevsnpvm-snpfw-svn",
  microcode: "x-ms-sevsnpvm-microcode-svn",
};

/** What the claim about debugging says: whether the host may read the guest's memory. Anything but true and false is no answer. */
export function debugClaim(claims: JsonObject): boolean | undefined {
  const value = claims[CLAIM.debug];
  return typeof value === "boolean" ? value : undefined;
}

/** Holds the claims of a token against the requirements of the flags. A claim that is missing meets none. */
export function checkClaims(claims: JsonObject, { policy, runtimeData }: Requirements): readonly CheckLine[] {
  const lines: CheckLine[] = [];
  const show = (name: string): string =>
    claims[name] === undefined
      ? `no claim ${name}`
      : `${name} ${JSON.stringify(claims[name], (_, value: unknown) => (typeof value === "bigint" ? String(value) : value))}`;
  const check = (name: string, claim: string, met: boolean, expected: string): void => {
    lines.push({ name, outcome: met ? "passed" : "failed", found: met ? show(claim) : `found ${show(claim)}, expected ${expected}` });
  };
  const bytes = (name: string, claim: string, expected: readonly Uint8Array[]): void =>
    check(
      name,
      claim,
      expected.some((one) => claims[claim] === toHex(one)),
      expected.map(toHex).join(" or "),
    );
  if (policy.reportData !== "any") bytes("reportData", CLAIM.reportData, [policy.reportData]);
  if (runtimeData !== undefined) bytes("runtime-data", CLAIM.reportData, [reportDataOver(runtimeData)]);
  if (policy.hostData !== "any") bytes("hostData", CLAIM.hostData, [policy.hostData]);
  if (policy.measurements !== "any") bytes("measurements", CLAIM.measurement, policy.measurements);
  if (policy.vmpls !== "any")
    check(
      "vmpls",
      CLAIM.vmpl,
      policy.vmpls.some((vmpl) => claims[CLAIM.vmpl] === vmpl),
      `VMPL ${policy.vmpls.join(" or ")}`,
    );
  if (policy.debug !== "any") check("debug", CLAIM.debug, claims[CLAIM.debug] === false, "false");
  if (policy.minimumTcb !== "any") {
    const [minimum = {}] = Object.values(policy.minimumTcb);
    for (const component of COMPONENTS) {
      const least = minimum[component];
      if (least === undefined) continue;
      const claim = TCB_CLAIMS[component];
      const found = claim === undefined ? undefined : claims[claim];
      check(`minimumTcb ${component}`, claim ?? component, typeof found === "number" && found >= least, `at least ${least}`);
    }
  }
  return lines;
}

/** Hex digits, with or without the 0x that other tools print before them. */
function hexOf(what: string, given: string, length?: number): Uint8Array {
  const text = withoutPrefix(given);
  const expected = length === undefined ? "hex digits" : `${length * 2} hex digits`;
  if (!/^([0-9a-fA-F]{2})*$/.test(text) || (length !== undefined && text.length !== length * 2)) {
    throw usage(
      `${what}: ${JSON.stringify(given.slice(0, 40))}${given.length > 40 ? `… (${given.length} characters)` : ""} is not what was expected: ${expected}`,
    );
  }
  return fromHex(text, what);
}

function asciiOf(bytes: Uint8Array): string {
  try {
    return decodeUtf8(bytes);
  } catch (error) {
    if (isSealpodError(error)) return "no text";
    throw error;
  }
}

function usage(message: string, hint?: string): CliError {
  return new CliError("ERR_CLI_USAGE", message, hint === undefined ? {} : { hint });
}
