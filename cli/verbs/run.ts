import { once } from "node:events";
import { join } from "node:path";
import { encodeUtf8, toHex } from "@sealpod/core";
import { OutputLog, parsePodManifest, PodError, serveControl, startPod, type PodRecord } from "@sealpod/pod";
import { EXIT, type CliContext } from "../context.ts";
import { sayReady, startDetached } from "../detach.ts";
import { CliError } from "../errors.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { Progress } from "../progress.ts";
import { imagesOf, isolationOf, podMachine, requireUp } from "../laptop.ts";
import { pathOf, readText, stateOf } from "../workspace.ts";

interface RunOptions {
  readonly detach?: boolean;
  readonly publish?: readonly string[];
  readonly ociLayout?: readonly string[];
  readonly webhookVersion: "1.5" | "1.6";
  readonly isolation: string;
  readonly readyFd?: string;
}

/** `sealpod run`. */
export const run: Verb<RunOptions> = async (options, operands, context) => {
  const file = operands[0] ?? "";
  const state = stateOf(options, context);
  const publish = (options.publish ?? []).map(parsePublish);
  if (options.detach === true) return detach(file, state, options, context);

  const source = await readText(file, context);
  const manifest = parsePodManifest(source);
  const up = await requireUp(state);
  const images = await imagesOf(options.ociLayout, options, context);
  const log = new OutputLog();
  const progress = new Progress(context);
  const machine = await podMachine(isolationOf(options.isolation), (message) => progress.show(message));
  if (machine.slow && options.json !== true) context.stderr.write("note: the processor is emulated, so CPU limits of the containers are left out\n");
  const directory = join(state, "run", toHex(context.random.bytes(6)));
  const pod = await startPod({
    manifest,
    webhook: options.webhookVersion,
    images,
    up,
    driver: machine.driver,
    guest: machine.guest,
    cpuLimits: !machine.slow,
    onEvent: ({ text }) => {
      progress.clear();
      context.stderr.write(`the guest's kernel: ${text}\n`);
    },
    directory,
    layerDirectory: join(state, "layers"),
    progress: (message) => progress.show(message),
    output: (name, _stream, bytes) => {
      log.append(name, bytes);
      progress.clear();
      if (options.json !== true) for (const line of Buffer.from(bytes).toString("utf8").trimEnd().split("\n")) context.stdout.write(`[${name}] ${line}\n`);
    },
    clock: context.clock,
    random: context.random,
  });
  progress.clear();
  const asked = new AbortController();
  try {
    const wanted =
      publish.length > 0
        ? publish
        : manifest.workload.template.spec.containers.flatMap((item) => item.ports.map((port) => ({ host: 0, container: port.containerPort })));
    const ports: { readonly host: number; readonly container: number }[] = [];
    for (const port of wanted) ports.push({ host: await pod.sandbox.machine.forwardPort(port.host, port.container), container: port.container });
    const record: PodRecord = {
      id: pod.plan.sandbox.id,
      name: pod.plan.name,
      namespace: pod.plan.namespace,
      pid: process.pid,
      hostData: manifest.hostData,
      isolation: machine.isolation,
      containers: pod.containers.map((item) => item.name),
      ports,
      directory,
    };
    await using _control = await serveControl(pod, { record, log, random: context.random, onStop: () => asked.abort() });
    show(record, options, context);
    sayReady(options.readyFd, JSON.stringify(record));
    const ended = Promise.all(
      pod.containers.map(async ({ name, process }) => {
        const status = await process.exited;
        const words = `container ${name} ended with exit code ${status}\n`;
        log.append(name, encodeUtf8(words));
        context.stderr.write(words);
        return status;
      }),
    );
    const outcome = await Promise.race([
      ended,
      pod.exited.then(() => "machine" as const),
      context.signal.aborted ? ("asked" as const) : once(context.signal, "abort").then(() => "asked" as const),
      once(asked.signal, "abort").then(() => "asked" as const),
    ]);
    if (outcome === "machine") throw new CliError("ERR_CLI_POD_ENDED", `the sandbox of ${record.name} ended by itself`);
    if (outcome === "asked") return EXIT.ok;
    return outcome.every((status) => status === 0) ? EXIT.ok : EXIT.failed;
  } finally {
    await pod.stop();
  }
};

async function detach(file: string, state: string, options: RunOptions & GlobalOptions, context: CliContext): Promise<number> {
  // Mistakes in the file are told here, not in a log.
  parsePodManifest(await readText(file, context));
  await requireUp(state);
  const args = [
    "run",
    "--state",
    state,
    ...(options.publish ?? []).flatMap((item) => ["-p", item]),
    ...(options.ociLayout ?? []).flatMap((item) => ["--oci-layout", pathOf(item, context)]),
    "--webhook-version",
    options.webhookVersion,
    "--isolation",
    options.isolation,
  ];
  const outcome = await startDetached([...args, pathOf(file, context)], join(state, "run.log"), context.env);
  if (outcome.kind === "ended") {
    context.stderr.write(outcome.words);
    return outcome.exitCode === 0 ? EXIT.failed : outcome.exitCode;
  }
  show(JSON.parse(outcome.message) as PodRecord, options, context);
  return EXIT.ok;
}

function show(record: PodRecord, options: RunOptions & GlobalOptions, context: CliContext): void {
  if (options.json === true) {
    context.stdout.write(`${JSON.stringify(record)}\n`);
    return;
  }
  const ports = record.ports.map((port) => `http://127.0.0.1:${port.host}/ -> port ${port.container}`);
  context.stdout.write(
    [
      `pod ${record.name} runs in sandbox ${record.id.slice(0, 12)} (isolation: ${record.isolation}${record.isolation === "process" ? ", NO protection" : ""})`,
      `HOST_DATA ${record.hostData}`,
      ...ports,
      "",
    ].join("\n"),
  );
}

function parsePublish(text: string): { readonly host: number; readonly container: number } {
  const match = /^(?:(\d{1,5}):)?(\d{1,5})$/.exec(text);
  const host = Number(match?.[1] ?? 0);
  const container = Number(match?.[2] ?? 0);
  if (match === null || host > 65_535 || container < 1 || container > 65_535) {
    throw new PodError("ERR_POD_PUBLISH", `--publish ${text} is not HOST:CONTAINER`, { hint: "For example -p 8080:80; -p 80 takes a free port of the host." });
  }
  return { host, container };
}
