import { createImage, parseSize, readKey } from "../encfs/image.ts";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { Progress } from "../progress.ts";

interface Options {
  readonly key: string;
  readonly output: string;
  readonly from?: string;
  readonly image?: string;
  readonly size?: string;
  readonly label?: string;
}

/** `sealpod encfs create`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const { from, image, size, output } = options;
  if (image !== undefined && (from !== undefined || size !== undefined)) {
    throw new CliError("ERR_CLI_USAGE", "--image is a filesystem that is there: --from and --size are for one to make", {
      hint: "Leave them out, or leave out --image.",
    });
  }
  const key = await readKey(options.key, context);
  using progress = new Progress(context);
  const source = { from, image, size: size === undefined ? undefined : parseSize(size) };
  const show = (share: number): void => progress.show(`encrypting ${Math.round(share * 100)} %`);
  const created = await createImage(output, key, source, { label: options.label, progress: show }, context);
  progress.clear();
  if (options.json === true) context.stdout.write(`${JSON.stringify({ file: output, ...created })}\n`);
  else {
    context.stdout.write(`${output}: LUKS2 volume ${created.uuid}, filesystem of ${created.dataLength / 1024 ** 2} MiB\n`);
    context.stdout.write(`Import the key (\`sealpod importkey -kh ${options.key}\`), upload the image, and name both in EncfsSideCarArgs (docs/keys.md).\n`);
  }
  return EXIT.ok;
};
