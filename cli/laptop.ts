import { join } from "node:path";
import { isSealpodError } from "@sealpod/core";
import { ISOLATIONS, type IsolationChoice, openPodMachine, type PodMachine } from "@sealpod/machine";
import { directoryTree } from "@sealpod/io";
import { openLayout, type ImageSource, type Layer } from "@sealpod/oci";
import { readUp, type Up } from "@sealpod/services";
import { type ProcessGuest, processGuest } from "@sealpod/vmm";
import type { CliContext } from "./context.ts";
import { CliError } from "./errors.ts";
import type { GlobalOptions } from "./program.ts";
import { guestNode, layoutDirectories, readBundle, ROOT } from "./workspace.ts";

// What only the verbs that run things need. Apart from workspace.ts, so that genpolicy starts without the services' code.

/**
 * What `sealpod up` wrote.
 * @throws {CliError} ERR_CLI_NOT_UP
 */
export async function requireUp(state: string): Promise<Up> {
  try {
    return await readUp(state);
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_SERVICES_NOT_RUNNING") throw cause;
    throw new CliError("ERR_CLI_NOT_UP", `the laptop services are not running (state directory ${state})`, {
      cause,
      hint: "Start them: sealpod up -d. If they run on another state directory, name it with --state DIR.",
    });
  }
}

/** Where the utility VM's image of this checkout is. */
export const UVM_DIRECTORY: string = join(ROOT, "build", "uvm");

/** What pods run in: a virtual machine unless there cannot be one, or the user says otherwise. */
export async function podMachine(isolation: IsolationChoice, progress: (message: string) => void): Promise<PodMachine> {
  await readBundle("agent");
  const agentBundle = join(ROOT, "build", "agent.mjs");
  return openPodMachine({ isolation, node: guestNode(), agentBundle, uvmDirectory: UVM_DIRECTORY, progress });
}

/** The isolation that a command line names. */
export function isolationOf(text: string): IsolationChoice {
  const found = ISOLATIONS.find((name) => name === text);
  if (found === undefined) throw new CliError("ERR_CLI_USAGE", `--isolation ${text} is none of ${ISOLATIONS.join(", ")}`);
  return found;
}

/** The guest's program as bundles of this checkout. */
export function guestProgram(): ProcessGuest {
  return processGuest(process.execPath, join(ROOT, "build", "agent.mjs"));
}

/**
 * Images of several layouts as one source: the first that has the reference. Without any, the state directory's.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function imagesOf(layouts: readonly string[] | undefined, options: GlobalOptions, context: CliContext): Promise<ImageSource> {
  const directories = layoutDirectories(layouts, options, context);
  const sources: ImageSource[] = [];
  for (const directory of directories) sources.push(await openLayout(directoryTree(directory)));
  const owner = new WeakMap<object, ImageSource>();
  const ownerOf = (layer: Layer): ImageSource => {
    const source = owner.get(layer) ?? sources[0];
    if (source === undefined) throw new CliError("ERR_CLI_FILE", "no OCI layout to take images from");
    return source;
  };
  return {
    async resolve(reference) {
      for (const [index, source] of sources.entries()) {
        try {
          const image = await source.resolve(reference);
          for (const layer of image.layers) owner.set(layer, source);
          return image;
        } catch (error) {
          if (index === sources.length - 1 || !isSealpodError(error) || error.code !== "ERR_OCI_NOT_FOUND") throw error;
        }
      }
      throw new CliError("ERR_CLI_FILE", "no OCI layout to take images from");
    },
    layerBlob: (layer) => ownerOf(layer).layerBlob(layer),
    layerTar: (layer) => ownerOf(layer).layerTar(layer),
  };
}
