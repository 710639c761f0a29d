import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { isSealpodError, isZero, toBase64, toHex } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import { formatEvidenceOrigin } from "@sealpod/snp";
import { openEvidenceSource, openSevGuestSource, openTsmSource, TSM_REPORT_DIRECTORY, TsmError, type EvidenceSource } from "@sealpod/tsm";
import { parseVmpl, reportData } from "../attest/verify-requirements.ts";
import { EXIT, type CliContext } from "../context.ts";
import type { Verb } from "../program.ts";
import { pathOf, stateOf } from "../workspace.ts";

interface Options {
  readonly reportData: string;
  readonly source: string;
  readonly vmpl?: string;
  readonly output?: string;
  readonly certsOut?: string;
}

/** `sealpod attest report`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const data = await reportData("--report-data", options.reportData, context);
  const privlevel = options.vmpl === undefined ? {} : { privlevel: parseVmpl(options.vmpl) };
  const source = await openSource(options.source, context);
  const { report, certificates, origin } = await source.fetch(data, { signal: context.signal, ...privlevel });
  const hasCertificates = !isZero(certificates);
  if (options.output !== undefined) await writeFileAtomic(pathOf(options.output, context), report, 0o644);
  if (options.certsOut !== undefined && hasCertificates) await writeFileAtomic(pathOf(options.certsOut, context), certificates, 0o644);
  context.stderr.write(`report of ${report.length} bytes from ${formatEvidenceOrigin(origin)}\n`);
  if (!hasCertificates) context.stderr.write("the host gave no certificates with it: `sealpod certcache fetch` gets them from AMD\n");
  else if (options.certsOut === undefined) context.stderr.write("the host's certificates came with it: --certs-out FILE keeps them\n");
  if (options.json === true) {
    const document = { origin, report: toHex(report), certificates: hasCertificates ? toBase64(certificates) : null };
    context.stdout.write(`${JSON.stringify(document, undefined, 2)}\n`);
  } else if (options.output === undefined) context.stdout.write(`${toHex(report)}\n`);
  return EXIT.ok;
};

async function openSource(name: string, context: CliContext): Promise<EvidenceSource> {
  switch (name) {
    case "auto":
      return openFirst(context);
    case "configfs-tsm":
      return openTsmSource(TSM_REPORT_DIRECTORY);
    case "sev-guest":
      return openSevGuestSource();
    default:
      return openTsmSource(pathOf(name, context));
  }
}

/** The emulator reports on guests that it launched and on nothing else, so outside of them a report would be a lie: who wants one of a pod names it. */
async function openFirst(context: CliContext): Promise<EvidenceSource> {
  try {
    return await openEvidenceSource();
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_TSM_UNAVAILABLE") throw cause;
    const guests = join(stateOf({}, context), "guests");
    const running = (await readdir(guests).catch((): readonly string[] => [])).filter((id) => /^[0-9a-f]{32}$/.test(id)).toSorted();
    const [first] = running;
    const pod =
      first === undefined
        ? `No pod runs in ${dirname(guests)} that the EMULATOR could report on: \`sealpod up -d\`, then \`sealpod run\` a pod, then --source ${guests}/ID/tsm/report`
        : `For an EMULATED report about a pod that runs here: --source ${join(guests, first, "tsm", "report")}${running.length === 1 ? "" : ` (or another of ${running.length} below ${guests})`}`;
    throw new TsmError("ERR_TSM_UNAVAILABLE", cause.message, { cause, details: cause.details, hint: `${pod}. ${cause.hint ?? ""}`.trimEnd() });
  }
}
