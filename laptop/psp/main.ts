/** Entry point of the emulated security processor of a node, `processor.mjs`: what `sealpod host processor` does, without the rest of it. */
import { once } from "node:events";
import { parseArgs } from "node:util";
import { isSealpodError, jsonLogger, messageOf } from "@sealpod/core";
import { systemClock, systemRandom } from "@sealpod/io";
import { serveHostProcessor } from "./host.ts";

const STRING = { type: "string" } as const;

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { socket: STRING, keys: STRING, guests: STRING } });
  const { socket, keys, guests } = values;
  if (![socket, keys, guests].every((path) => path?.startsWith("/") === true) || socket === undefined || keys === undefined || guests === undefined) {
    process.stderr.write("usage: processor --socket PATH --keys DIR --guests DIR (absolute paths)\n");
    process.exitCode = 2;
    return;
  }
  const end = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => end.abort());
  const logger = jsonLogger(systemClock, (line) => process.stderr.write(line), "info", "processor");
  const { server } = await serveHostProcessor({ socket, keys, guests }, { clock: systemClock, random: systemRandom, logger });
  if (!end.signal.aborted) await once(end.signal, "abort");
  await server.close();
}

try {
  await main();
} catch (error) {
  process.stderr.write(`processor: ${messageOf(error)}${isSealpodError(error) && error.hint !== undefined ? ` (${error.hint})` : ""}\n`);
  process.exitCode = 1;
}
