import { decryptImage, openImage, readKey } from "../encfs/image.ts";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { Progress } from "../progress.ts";

interface Options {
  readonly key: string;
  readonly output: string;
}

/** `sealpod encfs decrypt`. */
export const run: Verb<Options> = async (options, [path = ""], context) => {
  await using image = await openImage(path, context);
  const key = await readKey(options.key, context);
  using progress = new Progress(context);
  const length = await decryptImage(image, key, options.output, context, (share) => progress.show(`decrypting ${Math.round(share * 100)} %`));
  progress.clear();
  if (options.json === true) context.stdout.write(`${JSON.stringify({ file: options.output, length })}\n`);
  else context.stdout.write(`${options.output}: ${length} bytes, in the clear\n`);
  return EXIT.ok;
};
