import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { copyFile, mkdtemp, open, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { asObject, concatBytes, encodeUtf8, fromBase64, sha256, silentLogger, toBase64, toBase64url, toHex, type JsonObject } from "@sealpod/core";
import { readUvm, uvmMeasurement, type Uvm } from "@sealpod/image";
import { systemClock, systemRandom } from "@sealpod/io";
import { createMux } from "@sealpod/mux";
import { AgentService, Health } from "@sealpod/proto";
import { PspClient } from "@sealpod/psp";
import { policyHostData, type ContainerLayer, type LayerFormat } from "@sealpod/sandbox";
import { explainVaultRelease, laptopFetch, requestOwnerToken, startServices, type RunningServices } from "@sealpod/services";
import { parseReport } from "@sealpod/snp";
import { byteStream, TtrpcClient, type ByteStream } from "@sealpod/ttrpc";
import { PROGRAM_DIRECTORIES, QemuDriver, type MachineEvent } from "@sealpod/vmm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ChannelRelay } from "./testdata/channel-relay.ts";
import { GUEST_PROC, GUEST_ROOT, GuestShell } from "./testdata/guest-shell.ts";
import { ALLOW_ALL, fileItem, linkItem, noVm, openVmWorld, skippedVm, specOf, VM_TIMEOUT, type VmSandbox, type VmWorld } from "./test-support.ts";

/** What a host changes on its disks, in what it launches and on the channel, against real machines and the real key release. */

const ROOT = resolve(import.meta.dirname, "../..");
const IMAGE = join(ROOT, "build", "uvm");
const BLOCK = 4096;
const { statsContainer, execProcess, readStdout } = AgentService.method;

/** A file of a layer: each of its blocks begins with its name and number. */
const BLOCKS = 256;
const blockOf = (name: string, number: number): string => `${name}, block ${number}`;
function content(name: string): Uint8Array {
  const bytes = systemRandom.bytes(BLOCKS * BLOCK);
  for (let number = 0; number < BLOCKS; number++) bytes.set(encodeUtf8(blockOf(name, number)), number * BLOCK);
  return bytes;
}

/** Where a disk has these bytes. */
function offsetIn(path: string, bytes: string): number {
  const offset = readFileSync(path).indexOf(bytes);
  if (offset === -1) throw new Error(`${path} has no ${bytes}`);
  return offset;
}

async function flipBit(path: string, offset: number): Promise<void> {
  await using file = await open(path, "r+");
  const byte = new Uint8Array(1);
  await file.read(byte, 0, 1, offset);
  byte[0] = (byte[0] ?? 0) ^ 1;
  await file.write(byte, 0, 1, offset);
}

/** The processes of this machine that have a text in their command line. */
function processesWith(text: string): readonly string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^[0-9]+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(text);
    } catch {
      return false;
    }
  });
}

describe.skipIf(noVm !== undefined)(`what a host changes under a utility VM${skippedVm}`, { timeout: VM_TIMEOUT }, () => {
  let world: VmWorld;
  let uvm: Uvm;
  let state: string;
  let services: RunningServices;
  let relay: ChannelRelay;
  let pod: VmSandbox;
  let shell: GuestShell;
  let base: ContainerLayer;
  /** Has the files `first` and `second`. */
  let data: ContainerLayer;

  beforeAll(async () => {
    world = await openVmWorld();
    uvm = await readUvm(IMAGE);
    state = await mkdtemp(join(tmpdir(), "vm-services-"));
    services = await startServices({
      state,
      host: "127.0.0.1",
      port: 0,
      domain: "vm.internal",
      pid: process.pid,
      clock: systemClock,
      random: systemRandom,
      logger: silentLogger,
    });
    const [directory] = PROGRAM_DIRECTORIES.filter((path) => processExists(join(path, "qemu-system-x86_64")));
    relay = await ChannelRelay.open(join(world.directory, "relay"), join(directory ?? "", "qemu-system-x86_64"));
    base = await world.layer([fileItem("bin/busybox", readFileSync("/usr/bin/busybox")), linkItem("bin/sh", "busybox")]);
    data = await world.layer([fileItem("first", content("first"), 0o644), fileItem("second", content("second"), 0o644)]);
    const driver = new QemuDriver({ programDirectories: [relay.programs, ...PROGRAM_DIRECTORIES] });
    pod = await world.boot({ driver, machine: { launch: new PspClient(services.up.sockets.psp) } });
    shell = await GuestShell.start(pod, [base]);
  }, VM_TIMEOUT);

  afterAll(async () => {
    await world[Symbol.asyncDispose]();
    await relay[Symbol.asyncDispose]();
    await services.stop();
    await rm(state, { recursive: true, force: true });
  });

  // Disks -----------------------------------------------------------------------------------------------------------------

  it("a block of a layer that changes while the container runs is an I/O error, and the host is told", async () => {
    const container = await pod.run({ layers: [base, data], args: ["/bin/sh", "-c", "exec busybox sleep 100000"] });
    const offset = offsetIn(data.path, blockOf("first", 130));
    await flipBit(data.path, offset + 2000);
    try {
      const wrong = await container.exec("/bin/busybox", "cat", "/first");
      expect(wrong.stderr).toContain("Input/output error");
      expect(wrong.status).not.toBe(0);
      // Not a byte of the wrong block, however far the reading came.
      expect(wrong.stdout).not.toContain(blockOf("first", 130));
      const right = await container.exec("/bin/busybox", "sha256sum", "/second");
      expect(right).toMatchObject({ status: 0, stdout: expect.stringMatching(/^[0-9a-f]{64} {2}\/second\n$/) as string });
      const number = Math.floor(offset / BLOCK);
      expect(await pod.event("corrupt-disk")).toMatchObject({
        text: expect.stringMatching(new RegExp(`verity: .*data block ${number} is corrupted`)) as string,
      });
    } finally {
      await flipBit(data.path, offset + 2000);
    }
    // What is right again on the disk is read again: nothing of the wrong block was kept.
    expect(await container.exec("/bin/sh", "-c", "busybox cat /first > /dev/null")).toMatchObject({ status: 0, stderr: "" });
    await container.container.remove();
  });

  /** What the guest's kernel holds for containers: mounts, mapped devices, mount points of layers. */
  const holdings = async (): Promise<string> =>
    shell.ask(`sort ${GUEST_PROC}/1/mounts; ls /sys/block | grep dm-; ls ${GUEST_ROOT}/run/kata-containers/sandbox/layers ${GUEST_ROOT}/run/kata-containers`);

  /** What a host can make of a layer, for a container that asks for the true one or for another. */
  const WRONG: Readonly<Record<LayerFormat, Readonly<Record<string, (layer: ContainerLayer) => Promise<ContainerLayer>>>>> = {
    erofs: {
      "another root hash": async (layer) => Promise.resolve({ ...layer, rootHash: sha256(layer.rootHash) }),
      "another first block": async (layer) => changed(layer, 1100),
      "another tree": async (layer) => changed(layer, (await stat(layer.path)).size - 2 * BLOCK),
      "no trailer": async (layer) => changed(layer, (await stat(layer.path)).size - 1),
    },
    tar: {
      "another root hash": async (layer) => Promise.resolve({ ...layer, rootHash: sha256(layer.rootHash) }),
      "another first block": async (layer) => changed(layer, 100),
    },
  };

  it.each<LayerFormat>(["erofs", "tar"])("a wrong layer (%s) makes no container and leaves nothing; the true one does", async (format) => {
    const layer = await world.layer([fileItem("file", `a file of ${format}\n`, 0o644)], format);
    const before = await holdings();
    const id = toHex(systemRandom.bytes(32));
    const create = async (own: ContainerLayer): ReturnType<typeof pod.sandbox.createContainer> => {
      const layers = [base, own];
      const spec = specOf({ layers, args: ["/bin/busybox", "cat", "/file"] });
      return pod.sandbox.createContainer({ id, spec, bundle: `/run/containerd/${id}`, layers });
    };
    for (const [what, change] of Object.entries(WRONG[format])) {
      const message = expect.stringMatching(
        /^CreateContainerRequest: INTERNAL: .*(?:does not match root hash|cannot be mounted under its root hash|cannot be read at [0-9]+|layer trailer: )/s,
      ) as string;
      await expect(create(await change(layer)), what).rejects.toMatchObject({ code: "ERR_SANDBOX_AGENT", message });
      expect(await holdings(), what).toBe(before);
    }
    const container = await create(layer);
    let text = "";
    const running = await container.start({ stdout: { write: async (bytes) => void (text += Buffer.from(bytes).toString()) } });
    expect(await running.exited).toBe(0);
    expect(text).toBe(`a file of ${format}\n`);
    await container.remove();
    expect(await holdings()).toBe(before);
  });

  /** A copy with one bit flipped, under the same root hash. */
  const changed = async (layer: ContainerLayer, offset: number): Promise<ContainerLayer> => {
    const path = `${layer.path}.changed-${offset}`;
    await copyFile(layer.path, path);
    await flipBit(path, offset);
    return { ...layer, path };
  };

  it.each<[what: string, offset: (path: string) => number]>([
    ["what the first process reads", (path) => offsetIn(path, "/usr/bin/node\n--")],
    ["the hash tree", () => uvm.manifest.root.dataBlocks * BLOCK + 5],
  ])("a bit of the root changed in %s stops the boot, which says why and leaves nothing", async (_what, offset) => {
    const root = join(world.directory, "root-changed");
    await copyFile(world.machine.guest.root, root);
    await flipBit(root, offset(root));
    const id = toHex(systemRandom.bytes(32));
    const directories = readdirSync(world.directory);
    const events: MachineEvent[] = [];
    let console = "";
    await expect(
      world.boot({
        id,
        guest: { ...world.machine.guest, root },
        machine: { onEvent: (event) => events.push(event), console: (bytes) => (console += Buffer.from(bytes).toString("latin1")) },
      }),
    ).rejects.toMatchObject({ code: "ERR_VMM_BOOT", message: expect.stringMatching(/ended before its agent answered[^]*verity/) as string });
    expect(console).toMatch(/verity: .*block [0-9]+ is corrupted/);
    expect(events).toContainEqual({ kind: "corrupt-disk", text: expect.stringContaining("is corrupted") as string });
    expect(events).toContainEqual({ kind: "panic", text: expect.stringContaining("dm-verity device corrupted") as string });
    expect(processesWith(id)).toEqual([]);
    expect(readdirSync(join(world.directory, "guests"))).toEqual([]);
    expect(readdirSync(world.directory)).toEqual(directories);
  });

  // What is launched ------------------------------------------------------------------------------------------------------

  it("each part of what is launched is measured: another one, another measurement", async () => {
    const predicted = toHex(await uvmMeasurement(uvm));
    const { stdout } = await promisify(execFile)(process.execPath, ["cli/bin/sealpod.cjs", "attest", "measure", "--uvm", IMAGE], { cwd: ROOT });
    expect(stdout.trim()).toBe(predicted);
    const { kernel, initrd, commandLine } = world.machine.guest;
    const measure = async (files: readonly string[], line: string): Promise<string> => {
      const launched = await world.psp.launch({ files, commandLine: line, hostData: new Uint8Array(32) });
      await launched.close();
      return toHex(launched.launchMeasurement);
    };
    expect(await measure([kernel, initrd], commandLine)).toBe(predicted);
    const otherInitrd = join(world.directory, "initrd");
    await copyFile(initrd, otherInitrd);
    await flipBit(otherInitrd, 100_000);
    const { rootHash } = uvm.manifest.root;
    const others = [
      await measure([kernel, initrd], `${commandLine} quiet`),
      await measure([kernel, initrd], commandLine.replace(rootHash, `${rootHash.startsWith("0") ? "1" : "0"}${rootHash.slice(1)}`)),
      await measure([kernel, otherInitrd], commandLine),
      await measure([initrd, kernel], commandLine),
    ];
    expect(new Set([predicted, ...others]).size).toBe(5);
  });

  /** Evidence from inside a guest: a shell in a container asks the report interface. */
  const prove = async (from: GuestShell): Promise<{ readonly report: Uint8Array; readonly endorsement: string; readonly runtimeData: Uint8Array }> => {
    const { publicKey } = await crypto.subtle.generateKey(
      { name: "RSA-OAEP", modulusLength: 2048, publicExponent: Uint8Array.of(1, 0, 1), hash: "SHA-256" },
      true,
      ["encrypt", "decrypt"],
    );
    const { e, n } = await crypto.subtle.exportKey("jwk", publicKey);
    const runtimeData = encodeUtf8(JSON.stringify({ keys: [{ e, key_ops: ["encrypt"], kid: "guest", kty: "RSA", n }] }));
    const reportData = concatBytes(sha256(runtimeData), new Uint8Array(32));
    const bytes = Array.from(reportData, (byte) => `\\0${byte.toString(8).padStart(3, "0")}`).join("");
    const entry = "/run/sealpod/tsm/report/entry";
    const until = (condition: string): string => `n=0; until ${condition} || [ $n -gt 1000 ]; do n=$((n+1)); usleep 10000; done`;
    const [outblob = "", endorsement = ""] = (
      await from.ask(
        [
          `mkdir ${entry}`,
          until(`[ -e ${entry}/generation ]`),
          `printf %b '${bytes}' > ${entry}/inblob`,
          until(`[ "$(cat ${entry}/generation)" = 1 ]`),
          `base64 ${entry}/outblob | tr -d '\\n'`,
          "echo",
          "cat /run/sealpod/security-context/reference-info-base64",
        ].join("; "),
      )
    ).split("\n");
    const report = fromBase64(outblob);
    expect(parseReport(report).reportData).toEqual(reportData);
    return { report, endorsement: endorsement.trim(), runtimeData };
  };

  const post = async (
    method: string,
    url: string,
    body: unknown,
    bearer?: string,
  ): Promise<{ readonly status: number; readonly body: JsonObject; readonly requestId: string }> => {
    const headers = { "content-type": "application/json", ...(bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }) };
    const response = await laptopFetch(services.up)(url, { method, headers, body: JSON.stringify(body) });
    return { status: response.status, body: asObject(JSON.parse(await response.text())) ?? {}, requestId: response.headers.get("x-ms-request-id") ?? "" };
  };

  const tokenFor = async ({ report, endorsement, runtimeData }: Awaited<ReturnType<typeof prove>>): Promise<string> => {
    const chain = await new PspClient(services.up.sockets.psp).fetchChain();
    const uvmClaim = toBase64url(encodeUtf8(JSON.stringify({ Uvm: [toBase64url(fromBase64(endorsement))] })));
    const evidence = { SnpReport: toBase64url(report), VcekCertChain: toBase64url(encodeUtf8(chain)), Endorsements: uvmClaim };
    const { status, body } = await post("POST", `https://${services.up.endpoints.attestation}/attest/SevSnpVm?api-version=2020-10-01`, {
      report: toBase64url(encodeUtf8(JSON.stringify(evidence))),
      runtimeData: { data: toBase64url(runtimeData), dataType: "JSON" },
    });
    expect(status, JSON.stringify(body)).toBe(200);
    const { token } = body;
    return typeof token === "string" ? token : "";
  };

  it("a key that asks for the image's measurement goes to that image, and not to one with another command line", async () => {
    const predicted = toHex(await uvmMeasurement(uvm));
    const bearer = await requestOwnerToken(services.up, "https://vault.azure.net");
    const key = `https://${services.up.endpoints.vault}/keys/of-the-image`;
    const allOf = [
      { claim: "x-ms-sevsnpvm-launchmeasurement", equals: predicted },
      { claim: "x-ms-sevsnpvm-hostdata", equals: toHex(policyHostData(ALLOW_ALL)) },
      { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
    ];
    const policy = { version: "1.0.0", anyOf: [{ authority: `https://${services.up.endpoints.attestation}`, allOf }] };
    const imported = await post(
      "PUT",
      `${key}?api-version=7.4`,
      {
        key: { kty: "oct-HSM", k: toBase64url(systemRandom.bytes(32)) },
        hsm: true,
        attributes: { exportable: true },
        release_policy: { contentType: "application/json; charset=utf-8", data: toBase64url(encodeUtf8(JSON.stringify(policy))) },
      },
      bearer,
    );
    expect(imported.status).toBe(200);
    const release = async (target: string): ReturnType<typeof post> => post("POST", `${key}/release?api-version=7.4`, { target }, bearer);

    const right = await prove(shell);
    expect(toHex(parseReport(right.report).measurement)).toBe(predicted);
    expect(await release(await tokenFor(right))).toMatchObject({ status: 200, body: { value: expect.any(String) as string } });

    const { guest } = world.machine;
    const other = await world.boot({
      guest: { ...guest, commandLine: `${guest.commandLine} sealpod.extra=1` },
      machine: { launch: new PspClient(services.up.sockets.psp) },
    });
    try {
      const wrong = await prove(await GuestShell.start(other, [base]));
      const { measurement, hostData } = parseReport(wrong.report);
      expect(toHex(measurement)).not.toBe(predicted);
      expect(hostData).toEqual(policyHostData(ALLOW_ALL));
      const refused = await release(await tokenFor(wrong));
      expect(refused.status).toBe(403);
      const view = await explainVaultRelease(state, refused.requestId, { clock: systemClock, random: systemRandom });
      expect(view).toContain("FAILED x-ms-sevsnpvm-launchmeasurement");
      expect(view).not.toContain("FAILED x-ms-sevsnpvm-hostdata");
    } finally {
      await other.sandbox.destroy();
    }
    for (const text of [toHex(right.report), toBase64(right.report), toHex(sha256(right.runtimeData)), toBase64(sha256(right.runtimeData)), "outblob"]) {
      expect(pod.console()).not.toContain(text.slice(0, 40));
    }
  });

  // The channel -----------------------------------------------------------------------------------------------------------

  /** The pod still runs, and this connection leads to its agent. */
  const expectAlive = async (stream: ByteStream): Promise<void> => {
    const client = new TtrpcClient(stream);
    const containerId = pod.id;
    const execId = toHex(systemRandom.bytes(8));
    expect(await client.unary(Health.method.check, {})).toMatchObject({ status: 1 });
    expect((await client.unary(statsContainer, { containerId })).cgroupStats?.pidsStats?.current).toBeGreaterThan(0n);
    await client.unary(execProcess, { containerId, execId, process: { Args: ["/bin/busybox", "echo", execId], Cwd: "/", User: {} } });
    const { data: output } = await client.unary(readStdout, { containerId, execId, len: 100 });
    expect(Buffer.from(output).toString()).toBe(`${execId}\n`);
    client.close();
  };

  it("a host that hangs up and comes back finds its pod as it was", async () => {
    await expectAlive(await pod.sandbox.machine.connectAgent());
    relay.cut();
    // With the session, the connection of the sandbox ends, and so does what waited on it.
    await expect(shell.container.process.exited).rejects.toMatchObject({ code: "ERR_SANDBOX_CLOSED" });
    await expectAlive(await pod.sandbox.machine.connectAgent());
  });

  it("streams to anything but the agent are refused; bytes that are no frames end a session, and nothing else", async () => {
    let mux = createMux(byteStream(await relay.takeOver()), { side: "host" });
    for (const service of ["processor", "shell", "agent.", "Agent", "a"]) {
      await expect(mux.open(service), service).rejects.toMatchObject({ code: "ERR_MUX_REFUSED" });
    }
    // Bytes that are no ttRPC end their stream alone.
    const stream = await mux.open("agent");
    await stream.write(systemRandom.bytes(200_000)).catch(() => undefined);
    await expectAlive(await mux.open("agent"));

    const garbage = await relay.takeOver();
    const written = new Promise<void>((done) => garbage.write(systemRandom.bytes(2_000_000), () => done()));
    await written;
    mux = createMux(byteStream(await relay.takeOver()), { side: "host" });
    await expectAlive(await mux.open("agent"));

    // In the middle of a session.
    const raw = await relay.takeOver();
    mux = createMux(byteStream(raw), { side: "host" });
    await mux.ready;
    await new Promise<void>((done) => raw.write(systemRandom.bytes(100_000), () => done()));
    relay.cut();
    await mux.closed;
    await expectAlive(await pod.sandbox.machine.connectAgent());
    expect(pod.console()).not.toMatch(/Unhandled|TypeError|RangeError|at .*agent\.mjs/);
  });
});

function processExists(path: string): boolean {
  try {
    readFileSync(path).subarray(0, 0);
    return true;
  } catch {
    return false;
  }
}
