import { join } from "node:path";
import { encodeUtf8 } from "@sealpod/core";
import { buildImages, encryptPage } from "@sealpod/images";
import { openLaptopAuthority } from "@sealpod/services";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { Progress } from "../progress.ts";
import { readBundle, readBytes, stateOf } from "../workspace.ts";

interface ExampleImagesOptions {
  readonly key: string;
  readonly page: string;
}

/** `sealpod example-images`. */
export const run: Verb<ExampleImagesOptions> = async (options, _operands, context) => {
  using progress = new Progress(context);
  const state = stateOf(options, context);
  const page = encryptPage(await readBytes(options.key, context), await readBytes(options.page, context), context.random);
  const certificates = encodeUtf8(await openLaptopAuthority(state, context));
  const output = join(state, "images");
  progress.show("building images");
  const built = await buildImages({
    output,
    pause: true,
    nginx: { webapp: await readBundle("webapp"), page },
    skr: { bundle: await readBundle("skr"), certificates },
    node: process.execPath,
    logger: { log: (_level, message) => progress.show(message) },
  });
  progress.clear();
  if (options.json === true) context.stdout.write(`${JSON.stringify({ layout: output, ...built }, undefined, 2)}\n`);
  else for (const image of built.images) context.stdout.write(`${image.reference}  ${image.manifestDigest}  ${image.layers.length} layers\n`);
  return EXIT.ok;
};
