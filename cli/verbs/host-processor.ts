import { once } from "node:events";
import { encodeUtf8, jsonLogger } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import { EMULATED_NOTICE, serveHostProcessor } from "@sealpod/psp";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { pathOf } from "../workspace.ts";

interface Options {
  readonly socket: string;
  readonly keys: string;
  readonly guests: string;
  readonly rootPem?: string;
}

/** `sealpod host processor`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const places = { socket: pathOf(options.socket, context), keys: pathOf(options.keys, context), guests: pathOf(options.guests, context) };
  const logger = jsonLogger(context.clock, (line) => context.stderr.write(line), options.debug === true ? "debug" : "warn", "processor");
  const { server, rootPem } = await serveHostProcessor(places, { clock: context.clock, random: context.random, logger });
  try {
    if (options.rootPem !== undefined) await writeFileAtomic(pathOf(options.rootPem, context), encodeUtf8(rootPem), 0o644);
    if (options.json === true) context.stdout.write(`${JSON.stringify({ socket: places.socket, emulated: EMULATED_NOTICE, rootPem })}\n`);
    else context.stdout.write(`security processor  ${EMULATED_NOTICE}\nsocket              ${places.socket}\n`);
    if (!context.signal.aborted) await once(context.signal, "abort");
  } finally {
    await server.close();
  }
  return EXIT.ok;
};
