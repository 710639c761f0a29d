import { join } from "node:path";
import { ATTACKS, findAttacks, formatResult, playAttack, prepareAttacks, type RefusalResult, SharedSandbox } from "@sealpod/demo";
import { parsePodManifest } from "@sealpod/pod";
import { laptopFetch } from "@sealpod/services";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { Progress } from "../progress.ts";
import { imagesOf, isolationOf, podMachine, requireUp } from "../laptop.ts";
import { readText, stateOf } from "../workspace.ts";

interface AttackOptions {
  readonly list?: boolean;
  readonly isolation: string;
  readonly ociLayout?: readonly string[];
}

/** `sealpod attack`. Exit code 0 if every attack was refused as it must be. */
export const run: Verb<AttackOptions> = async (options, operands, context) => {
  if (options.list === true) {
    const rows = ATTACKS.map(({ name, title, refuser }) => ({ name, title, refuser }));
    context.stdout.write(
      options.json === true
        ? `${JSON.stringify(rows, undefined, 2)}\n`
        : rows.map((row) => `${row.name.padEnd(20)} ${row.title} (refused by the ${row.refuser})\n`).join(""),
    );
    return EXIT.ok;
  }
  const [file, ...names] = operands;
  if (file === undefined)
    throw new CliError("ERR_CLI_USAGE", "attack needs the annotated YAML of a pod", {
      hint: "For example: sealpod attack myapplication.yaml; sealpod attack --list lists the attacks.",
    });
  const attacks = findAttacks(names);
  const state = stateOf(options, context);
  const manifest = parsePodManifest(await readText(file, context));
  const up = await requireUp(state);
  const images = await imagesOf(options.ociLayout, options, context);
  const directory = join(state, "run");
  await prepareAttacks(directory);
  using progress = new Progress(context);
  const { clock, random } = context;
  const { driver, guest, measured, slow } = await podMachine(isolationOf(options.isolation), (message) => progress.show(message));
  const pod = { images, up, driver, guest, cpuLimits: !slow, layerDirectory: join(state, "layers"), clock, random };
  const results: RefusalResult[] = [];
  const shared = new SharedSandbox();
  for (const attack of attacks) {
    if (context.signal.aborted) break;
    progress.show(attack.title);
    const result = await playAttack(attack, { shared, manifest, pod, measured, directory, up, fetch: laptopFetch(up), clock, random }, file);
    progress.clear();
    results.push(result);
    if (options.json !== true) context.stdout.write(formatResult(result));
  }
  await shared.end();
  if (options.json === true) context.stdout.write(`${JSON.stringify(results, undefined, 2)}\n`);
  const refused = results.filter((result) => result.ok).length;
  if (options.json !== true) context.stdout.write(`${refused} of ${attacks.length} attacks refused\n`);
  return refused === attacks.length ? EXIT.ok : EXIT.failed;
};
