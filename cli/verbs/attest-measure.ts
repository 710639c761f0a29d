import { equalBytes, isSealpodError, type JsonObject, toBase64, toHex } from "@sealpod/core";
import { type ExplainedPage, explainPage, LaunchFold, LaunchMeasurement, type LaunchRun, verifyIdAuth } from "@sealpod/snp";
import { type LaunchOptions, planLaunch, type PlannedLaunch } from "../attest/measure-launch.ts";
import { EXIT, type CliContext } from "../context.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { printable, writeJson } from "../rego/output.ts";
import { table } from "../rego/table.ts";

interface Options extends LaunchOptions {
  readonly outputFormat: "hex" | "base64";
  readonly pages?: "folded" | "all";
}

/** Hex digits of a digest in the table; the whole is in the JSON document. */
const SHORT_DIGEST = 16;

/** `sealpod attest measure`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const launch = await planLaunch(options, context);
  const measurement = new LaunchMeasurement(launch.start);
  const rows: LaunchRun[] = [];
  const fold = new LaunchFold();
  for await (const page of launch.pages) {
    if (options.pages === undefined) measurement.add(page);
    else {
      const explained = explainPage(measurement, page);
      if (options.pages === "all") rows.push({ ...explained, count: 1 });
      else fold.add(explained);
    }
  }
  const shown = options.pages === "folded" ? fold.runs : rows;
  const digest = measurement.digest();
  if (launch.note !== undefined) context.stderr.write(`note: ${launch.note}\n`);
  const identity = identityOf(launch, digest);
  if (identity.problem !== undefined) context.stderr.write(`warning: ${identity.problem}\n`);
  print(digest, launch, shown, identity.json, options, context);
  return EXIT.ok;
};

function print(
  digest: Uint8Array,
  launch: PlannedLaunch,
  shown: readonly LaunchRun[],
  identity: JsonObject,
  options: Options & GlobalOptions,
  context: CliContext,
): void {
  const measurement = options.outputFormat === "base64" ? toBase64(digest) : toHex(digest);
  if (options.json === true) {
    const pages = options.pages === undefined ? {} : { pages: shown.map(pageJson) };
    writeJson(context.stdout, { measurement, launch: launch.kind, ...identity, ...pages });
    return;
  }
  if (options.pages !== undefined) {
    context.stdout.write(
      printable(
        table(
          [
            { name: "address", align: "right" },
            { name: "pages", align: "right" },
            { name: "kind" },
            { name: "source" },
            { name: "file offset", align: "right" },
            { name: "content" },
            { name: "digest after" },
          ],
          shown.map((row) => [
            hex(row.gpa),
            String(row.count),
            row.kind,
            row.source?.name ?? "",
            row.source?.offset === undefined ? "" : hex(BigInt(row.source.offset)),
            row.contentsDigest === undefined ? "" : short(row.contentsDigest),
            short(row.digestAfter),
          ]),
        ),
      ),
    );
  }
  context.stdout.write(`${measurement}\n`);
}

/** What an IGVM file says of itself, and what does not agree with what was measured. */
function identityOf({ identity }: PlannedLaunch, digest: Uint8Array): { readonly json: JsonObject; readonly problem?: string } {
  if (identity === undefined) return { json: {} };
  const policy = identity.policy === undefined ? {} : { policy: hex(identity.policy) };
  if (identity.idBlock === undefined) return { json: policy };
  const { block, auth } = identity.idBlock;
  const matches = equalBytes(block.measurement, digest);
  const fields = {
    measurement: toHex(block.measurement),
    matches,
    guestSvn: block.guestSvn,
    familyId: toHex(block.familyId),
    imageId: toHex(block.imageId),
  };
  const verified = verifies(() => verifyIdAuth(block, auth));
  const problem = matches
    ? verified
      ? undefined
      : "the signature of the file's ID block does not verify: a host refuses this launch"
    : `the file's ID block is for the measurement ${toHex(block.measurement)}: a host refuses this launch`;
  return { json: { ...policy, idBlock: { ...fields, verified } }, ...(problem === undefined ? {} : { problem }) };
}

function verifies(verify: () => unknown): boolean {
  try {
    verify();
    return true;
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return false;
  }
}

function pageJson(row: LaunchRun | (ExplainedPage & { readonly count: number })): JsonObject {
  const { source, contentsDigest } = row;
  return {
    kind: row.kind,
    gpa: hex(row.gpa),
    count: row.count,
    ...(source === undefined ? {} : { source: source.name }),
    ...(source?.offset === undefined ? {} : { file: source.file ?? null, offset: source.offset }),
    ...(contentsDigest === undefined ? {} : { contentsDigest: toHex(contentsDigest) }),
    digestAfter: toHex(row.digestAfter),
  };
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}

function short(digest: Uint8Array): string {
  return `${toHex(digest).slice(0, SHORT_DIGEST)}…`;
}
