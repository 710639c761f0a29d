import { isZero, toBase64, toHex } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import { formatEvidenceOrigin } from "@sealpod/snp";
import { openEvidenceSource, openSevGuestSource, openTsmSource, TSM_REPORT_DIRECTORY, type EvidenceSource } from "@sealpod/tsm";
import { parseVmpl, reportData } from "../attest/verify-requirements.ts";
import { EXIT, type CliContext } from "../context.ts";
import type { Verb } from "../program.ts";
import { pathOf } from "../workspace.ts";

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
      return openEvidenceSource();
    case "configfs-tsm":
      return openTsmSource(TSM_REPORT_DIRECTORY);
    case "sev-guest":
      return openSevGuestSource();
    default:
      return openTsmSource(pathOf(name, context));
  }
}
