import { uvmGuestFiles, type UvmGuestFiles } from "@sealpod/image";
import { EMULATED_NOTICE, measuredPages, type MeasuredFiles } from "@sealpod/psp";
import { type LaunchPage, type PageSource, processSources } from "@sealpod/snp";
import type { PlannedLaunch } from "../attest/measure-launch.ts";
import type { CliContext } from "../context.ts";
import { openImage as openUvm } from "./image.ts";

// Apart from the other kinds of launch, which need none of the laptop's code.

/**
 * The files of the image that `--uvm` names.
 * @param directory `true` for this checkout's
 * @throws {ImageError} ERR_IMAGE_UVM
 */
export async function openImage(directory: string | true | undefined, context: CliContext): Promise<UvmGuestFiles> {
  return uvmGuestFiles(await openUvm(typeof directory === "string" ? directory : undefined, context));
}

/** The launch of an image as the emulated security processor measures it. */
export function emulatedLaunch(measured: MeasuredFiles): PlannedLaunch {
  return { kind: "uvm", pages: sourcedPages(measured), note: `this start is measured by the emulated security processor: ${EMULATED_NOTICE}` };
}

async function* sourcedPages(measured: MeasuredFiles): AsyncGenerator<LaunchPage & { readonly source: PageSource }> {
  let sourceOf: ((gpa: bigint) => PageSource) | undefined;
  for await (const page of measuredPages(measured)) {
    sourceOf ??= processSources(page, [...measured.files, "command line"]);
    yield { ...page, source: sourceOf(page.gpa) };
  }
}
