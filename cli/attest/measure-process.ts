import { join } from "node:path";
import { processGuest } from "@sealpod/vmm";
import { EMULATED_NOTICE, measuredPages, type MeasuredFiles } from "@sealpod/psp";
import { type LaunchPage, type PageSource, processSources } from "@sealpod/snp";
import type { CliContext } from "../context.ts";
import { pathOf, readBundle, ROOT } from "../workspace.ts";
import type { PlannedLaunch } from "./measure-launch.ts";

// Apart from the other kinds of launch, which need none of the laptop's code.

/**
 * The launch of `sealpod run`: what the process driver has the emulated security processor measure.
 * @param bundle the agent's; `true` or nothing for this checkout's
 * @throws {CliError} ERR_CLI_FILE if this checkout's bundle was not made
 */
export async function planProcess(bundle: string | true | undefined, context: CliContext): Promise<PlannedLaunch> {
  const own = typeof bundle !== "string";
  // Tells how to make it.
  if (own) await readBundle("agent");
  // The program that runs the bundle is not measured, and neither is its path.
  const guest = processGuest("/", own ? join(ROOT, "build", "agent.mjs") : pathOf(bundle, context));
  return {
    kind: "process",
    pages: sourcedPages({ files: guest.measuredFiles, commandLine: guest.commandLine }),
    note: `process isolation is measured by the emulated security processor: ${EMULATED_NOTICE}`,
  };
}

async function* sourcedPages(measured: MeasuredFiles): AsyncGenerator<LaunchPage & { readonly source: PageSource }> {
  let sourceOf: ((gpa: bigint) => PageSource) | undefined;
  for await (const page of measuredPages(measured)) {
    sourceOf ??= processSources(page, [...measured.files, "command line"]);
    yield { ...page, source: sourceOf(page.gpa) };
  }
}
