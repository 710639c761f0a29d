import { copyFile, cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { createServer } from "node:net";
import { availableParallelism, tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { decodeUtf8, encodeUtf8, fromHex, isSealpodError, messageOf, silentLogger, toHex, type Clock, type Logger, type Random } from "@sealpod/core";
import { fileCacheStore, runGenpolicy } from "@sealpod/genpolicy";
import { buildImages, encryptPage } from "@sealpod/images";
import { importKey } from "@sealpod/importkey";
import { directoryTree, writeFileAtomic } from "@sealpod/io";
import { openPodMachine, type IsolationChoice, type PodMachine } from "@sealpod/machine";
import { openLayout, type ImageSource } from "@sealpod/oci";
import { OutputLog, parsePodManifest, startPod, type PodManifest, type RunningPod } from "@sealpod/pod";
import { PspClient } from "@sealpod/psp";
import { laptopFetch, openLaptopAuthority, startServices, type RunningServices } from "@sealpod/services";
import { ownerToken } from "./access.ts";
import { findAttacks, playAttack, prepareAttacks, SharedSandbox, type AttackWorld } from "./attacks.ts";
import { DemoError } from "./errors.ts";
import { attest, claimsOf, collectEvidence, makeWrappingKey } from "./evidence.ts";
import { EMULATED, type DemoResult, type Facts, type RefusalResult, type StepResult } from "./result.ts";

/** Port that the example's manifest names. */
export const DEFAULT_PORT = 8443;

/** How the names of state directories in the system's temporary directory begin. */
export const STATE_PREFIX = "sealpod-demo-";

/** Milliseconds until the page must be there: the sidecar makes an RSA key, asks three services and the app starts nginx; on an emulated processor each takes tens of times longer. */
const PAGE_LIMIT = 300_000;

/** Programs and files that the demo works with. */
export interface DemoFiles {
  /** The example's directory: `myapplication.yaml`, `page.html`. */
  readonly example: string;
  /** Directory of the bundles `agent.mjs`, `skr.mjs`, `webapp.mjs`. */
  readonly bundles: string;
  /** Directory of the utility VM's image, built there if it is missing. */
  readonly uvm: string;
}

/** Options of {@link runDemo}. */
export interface DemoOptions {
  readonly files: DemoFiles;
  /** Program that runs the bundles: Node 24. */
  readonly node: string;
  readonly isolation: IsolationChoice;
  /** Attacks to play; default: all. */
  readonly attacks?: readonly string[];
  /** Directory that gets every artefact; it must be new or empty. */
  readonly keep?: string;
  /** HTTPS port on loopback; default {@link DEFAULT_PORT}, or a free one if that is taken. */
  readonly port?: number;
  /** Told about each result as it comes. */
  readonly onResult?: (result: StepResult | RefusalResult) => void;
  /** Told what is being done now. */
  readonly onProgress?: (message: string) => void;
  readonly signal?: AbortSignal;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger?: Logger;
}

/**
 * Runs the walk-through of the AKS document and then the attacks. Whatever happens, everything that was started is ended.
 * A step that fails ends the walk; the result then says so.
 */
export async function runDemo(options: DemoOptions): Promise<DemoResult> {
  const started = options.clock.now();
  const steps: StepResult[] = [];
  const refusals: RefusalResult[] = [];
  const kept = options.keep === undefined ? undefined : resolve(options.keep);
  // Sockets have short paths, so the state is not below the directory that is kept.
  const state = await mkdtemp(join(tmpdir(), STATE_PREFIX));
  const walk = new Walk(options, state, (result) => {
    if (result.kind === "step") steps.push(result);
    else refusals.push(result);
    options.onResult?.(result);
  });
  try {
    if (kept !== undefined) await mkdir(kept, { recursive: true });
    await walk.run();
    if (kept !== undefined) await walk.keep(kept);
  } catch (error) {
    // A step has already told of its failure; anything else is told here.
    if (!(error instanceof StepFailed)) throw error;
  } finally {
    await walk.end();
    await rm(state, { recursive: true, force: true });
  }
  const ok = steps.length === STEPS && refusals.length > 0 && [...steps, ...refusals].every((result) => result.ok);
  return { emulated: EMULATED, steps, refusals, ok, milliseconds: options.clock.now() - started, ...(kept === undefined ? {} : { kept }) };
}

/** Steps of the walk: a demo that ends early has not come out as said. */
const STEPS = 6;

class StepFailed extends Error {}

class Walk {
  readonly #options: DemoOptions;
  readonly #state: string;
  readonly #report: (result: StepResult | RefusalResult) => void;
  readonly #logger: Logger;
  readonly #yaml: string;
  readonly #key: Uint8Array;
  #machine: PodMachine | undefined;
  #services: RunningServices | undefined;
  #pod: RunningPod | undefined;
  #images: ImageSource | undefined;
  #page = "";
  readonly #log = new OutputLog();

  constructor(options: DemoOptions, state: string, report: (result: StepResult | RefusalResult) => void) {
    this.#options = options;
    this.#state = state;
    this.#report = report;
    this.#logger = options.logger ?? silentLogger;
    this.#yaml = join(state, "myapplication.yaml");
    this.#key = options.random.bytes(32);
  }

  async run(): Promise<void> {
    const port = this.#options.port ?? (await pickPort());
    await this.#step(
      "example-images",
      "Build the example's images from this machine's packages",
      "sealpod example-images --key encryptionKey --page page.html",
      async () => this.#buildImages(port),
    );
    await this.#step("genpolicy", "Generate the policy and write it into the YAML", "sealpod genpolicy -y myapplication.yaml", async () => this.#genpolicy());
    await this.#step("up", "Start the EMULATED security processor, attestation, key vault and identity", `sealpod up -d --port ${port}`, async () =>
      this.#up(port),
    );
    await this.#step(
      "importkey",
      "Import the key with a release policy that names this pod's policy",
      "sealpod importkey -c myapplication.yaml -kh encryptionKey",
      async () => this.#importKey(),
    );
    await this.#step(
      "run",
      "Run the pod: SetPolicy, CreateSandbox, CreateContainer, StartContainer",
      "sealpod run -d -p 8080:80 myapplication.yaml",
      async () => this.#run(),
    );
    await this.#step("page", "The pod proves itself, gets the key, decrypts the page; fetch it", "curl http://127.0.0.1:8080/", async () => this.#fetchPage());
    await this.#refusals();
  }

  /** Ends what was started. */
  async end(): Promise<void> {
    await this.#pod?.stop();
    await this.#services?.stop();
  }

  async #step(name: string, title: string, command: string, work: () => Promise<Facts>): Promise<void> {
    const { clock, signal, onProgress } = this.#options;
    const started = clock.now();
    const base = { kind: "step", name, title, command } as const;
    onProgress?.(title);
    try {
      signal?.throwIfAborted();
      const facts = await work();
      this.#report({ ...base, ok: true, milliseconds: clock.now() - started, facts });
    } catch (error) {
      this.#report({ ...base, ok: false, milliseconds: clock.now() - started, facts: {}, problem: problemOf(error) });
      throw new StepFailed(name, { cause: error });
    }
  }

  async #buildImages(port: number): Promise<Facts> {
    const { files, random, clock, node } = this.#options;
    const [yaml, page, webapp, skr] = await Promise.all([
      readFile(join(files.example, "myapplication.yaml"), "utf8"),
      readFile(join(files.example, "page.html")),
      readBundle(join(files.bundles, "webapp.mjs")),
      readBundle(join(files.bundles, "skr.mjs")),
    ]);
    await readBundle(join(files.bundles, "agent.mjs"));
    // The example names the usual port; on a machine where that is taken its copy names the one that is used.
    await writeFile(this.#yaml, yaml.replaceAll(`:${DEFAULT_PORT}`, `:${port}`));
    await writeFile(join(this.#state, "encryptionKey"), this.#key, { mode: 0o600 });
    this.#page = decodeUtf8(page);
    const encrypted = encryptPage(this.#key, page, random);
    const certificates = encodeUtf8(await openLaptopAuthority(this.#state, { clock, random }));
    const output = join(this.#state, "images");
    const built = await buildImages({ output, pause: true, nginx: { webapp, page: encrypted }, skr: { bundle: skr, certificates }, node });
    this.#images = await openLayout(directoryTree(output));
    return Object.fromEntries(built.images.map((image) => [image.reference, `${image.layers.length} layers, manifest ${image.manifestDigest}`]));
  }

  async #genpolicy(): Promise<Facts> {
    const text = await readFile(this.#yaml, "utf8");
    const [policy] = await runGenpolicy(
      { yamlFile: this.#yaml },
      {
        readFile: async (path) => readFile(path),
        listDirectory: async () => Promise.resolve(undefined),
        writeFile: async (path, bytes) => writeFileAtomic(path, bytes, 0o644),
        readStdin: async () => Promise.resolve(new Uint8Array()),
        writeStdout: () => undefined,
        writeStderr: (line) => this.#logger.log("warn", line),
        defaultSources: [{ kind: "oci", path: join(this.#state, "images") }],
        openSource: async () => Promise.resolve(this.#source()),
        cacheStore: (path) => fileCacheStore(path),
        threads: availableParallelism(),
        logger: this.#logger,
      },
    );
    if (policy === undefined) throw new DemoError("ERR_DEMO_STEP", "no policy was made");
    const annotated = await readFile(this.#yaml, "utf8");
    const pod = parsePodManifest({ name: basename(this.#yaml), text: annotated });
    if (pod.hostData !== policy.hostData) throw new DemoError("ERR_DEMO_STEP", "the annotation in the YAML is not the policy that was made");
    return {
      "HOST_DATA (SHA-256 of the policy)": policy.hostData,
      policy: `${policy.policy.length} characters`,
      "bytes added to the YAML": String(annotated.length - text.length),
    };
  }

  async #up(port: number): Promise<Facts> {
    const { clock, random } = this.#options;
    this.#services = await startServices({
      state: this.#state,
      host: "127.0.0.1",
      port,
      domain: "sealpod.internal",
      pid: process.pid,
      clock,
      random,
      logger: this.#logger,
    });
    const { endpoints } = this.#services.up;
    return {
      attestation: `https://${endpoints.attestation}`,
      "key vault": `https://${endpoints.vault}`,
      identity: endpoints.authority,
      "security processor": "EMULATED, keys in a file",
    };
  }

  async #importKey(): Promise<Facts> {
    const { up } = this.#running();
    const fetch = laptopFetch(up);
    const imported = await importKey(
      { config: { name: basename(this.#yaml), text: await readFile(this.#yaml, "utf8") }, key: { kind: "bytes", bytes: this.#key } },
      { fetch: async (url, request) => fetch(url, request), token: async () => ownerToken(up, fetch), random: this.#options.random },
    );
    return { key: imported.keyText, "key URL": imported.kid, "release policy": imported.releasePolicy };
  }

  async #run(): Promise<Facts> {
    const manifest = await this.#manifest();
    const { isolation, node, files, onProgress } = this.#options;
    const bundle = join(files.bundles, "agent.mjs");
    this.#machine = await openPodMachine({
      isolation,
      node,
      agentBundle: bundle,
      uvmDirectory: files.uvm,
      ...(onProgress === undefined ? {} : { progress: onProgress }),
    });
    const output = (name: string, _stream: "stdout" | "stderr", bytes: Uint8Array): void => {
      this.#log.append(name, bytes);
      this.#options.onProgress?.(`${name}: ${Buffer.from(bytes).toString("utf8").trimEnd()}`);
    };
    const { clock, random } = this.#options;
    const started = clock.now();
    this.#pod = await startPod({ ...this.#podOptions(), manifest, directory: join(this.#state, "run", toHex(random.bytes(6))), output });
    const { plan } = this.#pod;
    const { measured, description } = this.#ran();
    return {
      pod: plan.name,
      sandbox: plan.sandbox.id,
      containers: plan.containers.map((container) => container.name).join(", "),
      isolation: description,
      measured: [...measured.files.map((file) => basename(file)), `command line of ${measured.commandLine.length} characters`].join(", "),
      "launch measurement": await this.#measurement(),
      "all containers run after": `${((clock.now() - started) / 1000).toFixed(1)} s`,
    };
  }

  async #fetchPage(): Promise<Facts> {
    const pod = this.#pod;
    if (pod === undefined) throw new DemoError("ERR_DEMO_STEP", "the pod does not run");
    const port = await pod.sandbox.machine.forwardPort(0, 80);
    const page = await untilServed(port, pod, PAGE_LIMIT, this.#log);
    if (page !== this.#page) throw new DemoError("ERR_DEMO_STEP", `the page is not the one that was encrypted: ${page.slice(0, 200)}`);
    return { "served at": `http://127.0.0.1:${port}/`, page: visibleText(page) };
  }

  async #refusals(): Promise<void> {
    const { clock, random } = this.#options;
    const manifest = await this.#manifest();
    const { up } = this.#running();
    const directory = join(this.#state, "run");
    await prepareAttacks(directory);
    const shared = new SharedSandbox();
    const world = { shared, manifest, pod: this.#podOptions(), measured: this.#ran().measured, directory, up, fetch: laptopFetch(up), clock, random };
    try {
      for (const attack of findAttacks(this.#options.attacks ?? [])) {
        this.#options.signal?.throwIfAborted();
        this.#options.onProgress?.(attack.title);
        this.#report(await playAttack(attack, world, "myapplication.yaml"));
      }
    } finally {
      await shared.end();
    }
  }

  /**
   * Copies what other tools can check. The pod's own report, token and wrapping key are inside the sandbox; these are of a guest that was
   * launched with the same files and HOST_DATA, for a wrapping key whose private half is kept, so that the release can be opened.
   */
  async keep(directory: string): Promise<void> {
    const { up } = this.#running();
    const manifest = await this.#manifest();
    const key = makeWrappingKey("demo");
    const evidence = await collectEvidence(up, this.#ran().measured, fromHex(manifest.hostData), key.jwks);
    const fetch = laptopFetch(up);
    const token = (await attest(up, fetch, evidence)).body["token"];
    if (typeof token !== "string") throw new DemoError("ERR_DEMO_SERVICE", "the attestation service gave no token for the artefacts");
    const bearer = await ownerToken(up, fetch);
    const kid = manifest.workload.template.spec.containers.flatMap((item) => item.env).find((item) => item.name === "SkrClientKID");
    const name = kid?.value ?? "";
    const keys = await fetch(`https://${up.endpoints.attestation}/certs`);
    const released = await fetch(`https://${up.endpoints.vault}/keys/${name}/release?api-version=7.4`, {
      method: "POST",
      headers: { authorization: `Bearer ${bearer}`, "content-type": "application/json" },
      body: JSON.stringify({ target: token }),
    });
    const files: Readonly<Record<string, string | Uint8Array>> = {
      "policy.rego": manifest.policy,
      "report.bin": evidence.report,
      "vcek-chain.pem": evidence.chain,
      "uvm-endorsement.cose": evidence.endorsement,
      "runtime-data.json": key.jwks,
      "wrapping-key.pem": key.privateKey,
      "token.jwt": token,
      "token-keys.json": await keys.text(),
      "token-claims.json": `${JSON.stringify(claimsOf(token), undefined, 2)}\n`,
      "released.json": await released.text(),
      "ca.pem": up.caCertificate,
      "agent.mjs": await readFile(join(this.#options.files.bundles, "agent.mjs")),
    };
    for (const [file, content] of Object.entries(files)) await writeFile(join(directory, file), content);
    await copyFile(this.#yaml, join(directory, "myapplication.yaml"));
    await copyFile(join(this.#state, "emulator-root.pem"), join(directory, "emulator-root.pem"));
    await copyFile(join(this.#state, "encryptionKey"), join(directory, "encryptionKey"));
    await cp(join(this.#state, "layers"), join(directory, "layers"), { recursive: true });
    await cp(join(this.#state, "images"), join(directory, "images"), { recursive: true });
  }

  #podOptions(): AttackWorld["pod"] {
    const { clock, random } = this.#options;
    return {
      images: this.#source(),
      up: this.#running().up,
      driver: this.#ran().driver,
      guest: this.#ran().guest,
      cpuLimits: !this.#ran().slow,
      layerDirectory: join(this.#state, "layers"),
      clock,
      random,
      logger: this.#logger,
    };
  }

  /** The annotated manifest, as it lies on the disk now. */
  async #manifest(): Promise<PodManifest> {
    return parsePodManifest({ name: basename(this.#yaml), text: await readFile(this.#yaml, "utf8") });
  }

  /** Launch measurement of such a machine, as the emulated processor states it. */
  async #measurement(): Promise<string> {
    const psp = new PspClient(this.#running().up.sockets.psp);
    const launched = await psp.launch({ ...this.#ran().measured, hostData: new Uint8Array(32) });
    await launched.close();
    return toHex(launched.launchMeasurement);
  }

  #ran(): PodMachine {
    if (this.#machine === undefined) throw new DemoError("ERR_DEMO_STEP", "there is no machine for the pod");
    return this.#machine;
  }

  #running(): RunningServices {
    if (this.#services === undefined) throw new DemoError("ERR_DEMO_STEP", "the services do not run");
    return this.#services;
  }

  #source(): ImageSource {
    if (this.#images === undefined) throw new DemoError("ERR_DEMO_STEP", "the images are not built");
    return this.#images;
  }
}

function problemOf(error: unknown): string {
  const hint = isSealpodError(error) && error.hint !== undefined ? `\nto do: ${error.hint}` : "";
  return `${messageOf(error)}${hint}`;
}

async function readBundle(path: string): Promise<Uint8Array> {
  return readFile(path).catch((cause: unknown) => {
    throw new DemoError("ERR_DEMO_FILES", `${path} cannot be read: ${messageOf(cause)}`, { cause, hint: "Make the bundles: npm run bundle" });
  });
}

/** The usual port, or a free one if that is taken. */
async function pickPort(): Promise<number> {
  return (await freePort(DEFAULT_PORT)) ?? (await freePort(0)) ?? DEFAULT_PORT;
}

async function freePort(port: number): Promise<number | undefined> {
  return new Promise((done) => {
    const server = createServer();
    server.once("error", () => done(undefined));
    server.listen(port, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => done(typeof address === "object" && address !== null ? address.port : undefined));
    });
  });
}

/** The page, once nginx serves it. A refused connection has no event that tells when to come again: this asks with growing pauses. */
async function untilServed(port: number, pod: RunningPod, limit: number, log: OutputLog): Promise<string> {
  const ended = Promise.race(pod.containers.map(async (item) => ({ name: item.name, status: await item.process.exited })));
  const timeout = AbortSignal.timeout(limit);
  for (let wait = 50; ; wait = Math.min(wait * 2, 1000)) {
    const page = await get(port).catch(() => undefined);
    if (page !== undefined) return page;
    const pause = new Promise<undefined>((done) => setTimeout(done, wait, undefined));
    const gone = await Promise.race([ended, pause]);
    if (gone !== undefined) {
      const words = Buffer.from(log.read(gone.name)).toString("utf8").trimEnd().slice(-2000);
      throw new DemoError("ERR_DEMO_STEP", `container ${gone.name} ended with exit code ${gone.status} before the page was served; it wrote:\n${words}`);
    }
    if (timeout.aborted) throw new DemoError("ERR_DEMO_STEP", `no page within ${limit / 1000} s`);
  }
}

async function get(port: number): Promise<string> {
  return new Promise((done, fail) => {
    const call = request({ host: "127.0.0.1", port, path: "/", agent: false, timeout: 5000 }, (response) => {
      const chunks: Uint8Array[] = [];
      response.on("data", (chunk: Uint8Array) => chunks.push(chunk));
      response.on("error", fail);
      response.on("end", () => (response.statusCode === 200 ? done(Buffer.concat(chunks).toString("utf8")) : fail(new Error(String(response.statusCode)))));
    });
    call.on("timeout", () => call.destroy(new Error("timeout")));
    call.on("error", fail);
    call.end();
  });
}

/** The text of a page without its tags, in one line. */
function visibleText(html: string): string {
  return html
    .replace(/<(style|script|title)[^>]*>[\s\S]*?<\/\1>/g, " ")
    .replace(/<[^>]*>/g, " ")
    .replace(/\s+/g, " ")
    .trim();
}
