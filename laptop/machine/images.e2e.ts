import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { messageOf, type ByteSink } from "@sealpod/core";
import { AgentService } from "@sealpod/proto";
import type { ContainerLayer, HostVolumes } from "@sealpod/sandbox";
import { TtrpcClient } from "@sealpod/ttrpc";
import type { TarItem } from "@sealpod/verity";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { baseItems, fetchPackages, fileCapabilities, opaqueItem, packageItems, textItem, whiteoutItem, type Packages } from "./images/test-support.ts";
import {
  directoryItem,
  linkItem,
  noVm,
  openVmWorld,
  skippedVm,
  VM_TIMEOUT,
  type RunOptions,
  type RunningContainer,
  type VmSandbox,
  type VmWorld,
} from "./test-support.ts";

/** What each image is made of, the libraries that they share aside. */
const PACKAGES = {
  base: ["busybox-static"],
  libraries: ["libc6", "libgcc-s1", "libstdc++6", "libssl3", "zlib1g", "libcrypt1", "libpcre2-8-0", "libselinux1"],
  // What redis and PostgreSQL both log to.
  system: ["libsystemd0", "libcap2", "libgcrypt20", "libgpg-error0", "liblz4-1", "liblzma5", "libzstd1"],
  nginx: ["nginx", "nginx-common"],
  redis: ["redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1"],
  python: ["python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libexpat1"],
  postgres: [
    "postgresql-15 postgresql-client-15 libpq5 libicu72 libxml2 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libkeyutils1 libcom-err2",
    "libldap-2.5-0 libsasl2-2 libpam0g libaudit1 libcap-ng0 libuuid1 libreadline8 libtinfo6 tzdata",
    "libgnutls30 libp11-kit0 libidn2-0 libunistring2 libtasn1-6 libnettle8 libhogweed6 libgmp10 libffi8",
  ].flatMap((line) => line.split(" ")),
  static: ["gosu"],
  tools: ["coreutils"],
} as const;

/** The capabilities that containers have unless their pod says otherwise. */
const CAPABILITIES = [
  "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE",
  "CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE",
].flatMap((line) => line.split(" "));

const NET_RAW = 13;

const POSTGRES = "/usr/lib/postgresql/15/bin";

const [SIGINT, SIGQUIT, SIGKILL, SIGTERM] = [2, 3, 9, 15];

/** Keeps what is sent to its port in a file and says its digest; ends when it is told to. With few modules: Python compiles them each time, and slowly here. */
const PYTHON_SERVER = `
import _sha256, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(12))
listener = socket.create_server(("", 8000))
print("serving", flush=True)
while True:
    peer, address = listener.accept()
    with open("/cache/kept", "wb") as file:
        while block := peer.recv(65536):
            file.write(block)
    with open("/cache/kept", "rb") as file:
        peer.sendall(_sha256.sha256(file.read()).hexdigest().encode())
    peer.close()
    print("took", file.name, file=sys.stderr)
`;

const problem = noVm ?? (await fetchPackages(Object.values(PACKAGES).flat()).then(() => undefined, messageOf));
const skipped = noVm === undefined && problem !== undefined ? " (skipped: the packages of the images cannot be fetched)" : skippedVm;

describe.skipIf(problem !== undefined)(`unmodified images in a utility VM${skipped}`, { timeout: VM_TIMEOUT }, () => {
  let world: VmWorld;
  let vm: VmSandbox;
  let agent: TtrpcClient;
  let pause: RunningContainer;
  let images: Readonly<Record<"busybox" | "nginx" | "redis" | "python" | "postgres" | "static" | "tools", readonly ContainerLayer[]>>;

  beforeAll(async () => {
    world = await openVmWorld();
    const packages = await fetchPackages(Object.values(PACKAGES).flat());
    // The machine boots beside that, in a process of its own.
    [images, vm] = await Promise.all([buildImages(world, packages), world.boot({ machine: { memoryMiB: 1536, vcpus: 2 } })]);
    agent = new TtrpcClient(await vm.sandbox.machine.connectAgent());
    pause = await run({
      layers: images.busybox,
      args: ["sleep", "100000"],
      annotations: { "io.kubernetes.cri.container-type": "sandbox" },
      readonly: true,
    });
  }, VM_TIMEOUT);

  afterAll(async () => {
    agent?.close();
    await world?.[Symbol.asyncDispose]();
  });

  const run = (options: Partial<RunOptions> & Pick<RunOptions, "layers" | "args">): Promise<RunningContainer> =>
    vm.run({ capabilities: CAPABILITIES, annotations: { "io.kubernetes.cri.container-type": "container" }, ...options });

  const busybox = (script: string, options: Partial<RunOptions> = {}): Promise<RunningContainer> =>
    run({ layers: images.busybox, args: ["sh", "-c", script], ...options });

  /** Runs a script to its end. */
  async function outcome(
    script: string,
    options: Partial<RunOptions> = {},
  ): Promise<{ readonly status: number; readonly stdout: string; readonly stderr: string }> {
    const container = await busybox(script, options);
    const status = await container.process.exited;
    await container.container.remove();
    return { status, stdout: container.stdout(), stderr: container.stderr() };
  }

  /** Asks a container to end, and how it did. */
  async function ended({ container, process }: RunningContainer, signal: number): Promise<number> {
    await container.signal(signal);
    const status = await process.exited;
    await container.remove();
    return status;
  }

  describe("services", () => {
    let postgres: Promise<RunningContainer>;

    beforeAll(() => {
      // Making a database takes long here, so it happens while the other tests run.
      const script = `${POSTGRES}/initdb -D /tmp/data -U postgres --locale=C --no-sync --auth=trust && exec ${POSTGRES}/postgres -D /tmp/data -k /tmp -c listen_addresses='*'`;
      postgres = run({ layers: images.postgres, args: ["sh", "-c", script], uid: 101, gid: 101, capabilities: [] });
      postgres.catch(() => undefined);
    });

    it("nginx serves from a layer with whiteouts, logs to the host, and ends at SIGQUIT", async () => {
      const nginx = await run({ layers: images.nginx, args: ["nginx", "-g", "daemon off;"] });
      const port = await vm.sandbox.machine.forwardPort(0, 8080);
      await answering(port);
      const response = await fetch(`http://127.0.0.1:${port}/page.txt`, { headers: { connection: "close", "user-agent": "host" } });
      expect([response.status, await response.text()]).toEqual([200, "from the upper layer\n"]);
      await nginx.wrote(/"GET \/page\.txt HTTP\/1\.1" 200 21 "-" "host"/);
      const { stdout } = await nginx.exec(
        "sh",
        "-c",
        "ls /etc/nginx/snippets /etc/nginx/sites-available; ps -o user,args | grep 'nginx: w' | cut -c1-8 | head -n 1",
      );
      expect(stdout.split("\n").map((line) => line.trim())).toEqual(["/etc/nginx/sites-available:", "", "/etc/nginx/snippets:", "own.conf", "www-data", ""]);
      expect(await ended(nginx, SIGQUIT)).toBe(0);
      expect(nginx.stderr()).toBe("");
    });

    it("nginx ends at SIGTERM", async () => {
      const nginx = await run({ layers: images.nginx, args: ["nginx", "-g", "daemon off;"] });
      const port = await vm.sandbox.machine.forwardPort(0, 8080);
      await answering(port);
      expect(await ended(nginx, SIGTERM)).toBe(0);
    });

    it("redis keeps its data in an emptyDir that another container reads", async () => {
      const data = emptyDir(world, "redis-data", "/data");
      const redis = await run({
        layers: images.redis,
        args: ["redis-server", "--protected-mode", "no", "--dir", "/data"],
        uid: 999,
        gid: 999,
        capabilities: [],
        mounts: [data],
        volumes: VOLUMES,
      });
      await redis.wrote(/Ready to accept connections/);
      const port = await vm.sandbox.machine.forwardPort(0, 6379);
      expect(await exchange(port, "SET key value\r\nGET key\r\nSAVE\r\n", "+OK\r\n$5\r\nvalue\r\n+OK\r\n".length)).toBe("+OK\r\n$5\r\nvalue\r\n+OK\r\n");
      expect((await redis.exec("redis-cli", "get", "key")).stdout).toBe("value\n");
      expect((await redis.exec("id")).stdout).toMatch(/^uid=999\(redis\) gid=999\(redis\)/);
      expect(
        await outcome("head -c 5 /data/dump.rdb; stat -c ' %U %G' /data/dump.rdb; stat -f -c %T /data", { mounts: [data], volumes: VOLUMES }),
      ).toMatchObject({
        stdout: expect.stringMatching(/^REDIS redis redis\n/) as string,
      });
      expect(await ended(redis, SIGTERM)).toBe(0);
      expect(redis.stdout()).toMatch(/User requested shutdown[^]*DB saved on disk[^]*bye bye/);
    });

    it("Python serves from a layer in the tar format, and writes into a volume in memory", async () => {
      const python = await run({
        layers: images.python,
        args: ["python3", "/app/server.py"],
        uid: 1000,
        gid: 1000,
        readonly: true,
        mounts: [emptyDir(world, "cache-memory", "/cache")],
        volumes: VOLUMES,
      });
      await python.wrote(/serving/);
      const port = await vm.sandbox.machine.forwardPort(0, 8000);
      const body = randomBytes(300_000);
      expect(await exchange(port, body, 64)).toBe(sha256(body));
      const { stdout } = await python.exec("sh", "-c", "stat -f -c %T /cache; df -m /cache | tail -n 1 | wc -l; touch /app/x 2>&1");
      expect(stdout).toBe("tmpfs\n1\ntouch: /app/x: Read-only file system\n");
      expect(await ended(python, SIGTERM)).toBe(12);
      expect(python.stderr()).toBe("took /cache/kept\n");
    });

    it("PostgreSQL makes its cluster in the writable layer, answers, and ends at SIGTERM", async () => {
      const database = await postgres;
      await database.wrote(/database system is ready to accept connections/);
      const psql = (sql: string): ReturnType<RunningContainer["exec"]> => database.exec(`${POSTGRES}/psql`, "-h", "/tmp", "-U", "postgres", "-At", "-c", sql);
      expect(await psql("create table t as select generate_series(1, 1000) n; select sum(n) from t")).toEqual({
        status: 0,
        stdout: "SELECT 1000\n500500\n",
        stderr: "",
      });
      expect((await psql("select nothing")).status).toBe(1);
      const port = await vm.sandbox.machine.forwardPort(0, 5432);
      // Asked for TLS, it says no.
      expect(await exchange(port, "\0\0\0\u0008\u0004\u00d2\u0016\u002f", 1)).toBe("N");
      expect(await ended(database, SIGTERM)).toBe(0);
      expect(database.stderr()).toMatch(/received smart shutdown request[^]*database system is shut down/);
    });

    it("a static Go program finds the users of the image and becomes one", async () => {
      expect(
        await outcome("gosu redis:audio id; gosu app sh -c 'id -un; cat /proc/self/status | grep CapEff'; gosu nowhere id; echo $?", { layers: images.static }),
      ).toMatchObject({
        status: 0,
        stdout: "uid=999(redis) gid=29(audio)\napp\nCapEff:\t0000000000000000\n1\n",
        stderr: expect.stringMatching(/unable to find user nowhere/) as string,
      });
      const server = await run({ layers: images.static, args: ["gosu", "app", "httpd", "-f", "-p", "8090", "-h", "/etc"] });
      const port = await vm.sandbox.machine.forwardPort(0, 8090);
      await answering(port);
      expect(await (await fetch(`http://127.0.0.1:${port}/hosts`)).text()).toBe("127.0.0.1 localhost\n");
      // It has no handler, and so ends by force.
      expect(await ended(server, SIGTERM)).toBe(137);
    });
  });

  describe("rights", () => {
    it("a process has its user, its groups, and those of the image's files", async () => {
      expect(
        await outcome("id; grep -E '^(Groups|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status", {
          uid: 999,
          gid: 33,
          additionalGids: [29, 4000],
          capabilities: [],
        }),
      ).toMatchObject({
        status: 0,
        stdout: "uid=999(redis) gid=33(www-data) groups=29(audio),4000\nGroups:\t29 4000 \nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t0\n",
      });
    });

    it("a read-only root is one, and a volume in it can be written", async () => {
      const options = { readonly: true, uid: 1000, mounts: [emptyDir(world, "writable", "/mnt")], volumes: VOLUMES };
      expect(await outcome("echo text > /mnt/file && cat /mnt/file; touch /tmp/file || touch /file", options)).toEqual({
        status: 1,
        stdout: "text\n",
        stderr: "touch: /tmp/file: Read-only file system\ntouch: /file: Read-only file system\n",
      });
    });

    it.each([
      ["work within the bounding set", { noNewPrivileges: false }, 0, "1 packets received"],
      ["fail to start outside of it", { noNewPrivileges: false, capabilities: ["CAP_CHOWN"] }, 126, "Operation not permitted"],
      ["give nothing to a process that may gain nothing", {}, 1, "permission denied"],
    ])("capabilities of a file %s", async (_, options, status, said) => {
      const found = await outcome("/opt/ping -c 1 127.0.0.1", { layers: images.tools, uid: 1000, ...options });
      expect([found.status, found.stdout + found.stderr]).toEqual([status, expect.stringContaining(said)]);
    });

    it("a set-uid program is root's unless the process may gain nothing", async () => {
      const options = { layers: images.tools, uid: 1000, gid: 1000 };
      expect((await outcome("/opt/id -u", { ...options, noNewPrivileges: false })).stdout).toBe("0\n");
      expect((await outcome("/opt/id -u", options)).stdout).toBe("1000\n");
    });

    it("a profile of system calls and a path of the host's cgroups do not reach the guest; parameters of its namespaces do, others are refused", async () => {
      const linux = {
        seccomp: { defaultAction: "SCMP_ACT_ERRNO" },
        cgroupsPath: "/kubepods/burstable",
        sysctl: { "net.core.somaxconn": "1234", "kernel.shm_rmid_forced": "1" },
      };
      expect(
        await outcome("cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced /proc/self/cgroup; grep Seccomp: /proc/self/status", { linux }),
      ).toMatchObject({
        status: 0,
        stdout: "1234\n1\n0::/\nSeccomp:\t0\n",
      });
      await expect(busybox("true", { linux: { sysctl: { "kernel.panic": "1" } } })).rejects.toThrow(/kernel\.panic/);
    });
  });

  describe("what a pod shares", () => {
    it("files of the host are copied, with the links of a ConfigMap", async () => {
      const mounts = [
        bindMount("/config", configMap(world, { key: "value", other: "more" }), "ro"),
        bindMount("/etc/resolv.conf", hostFile(world, "resolv.conf", "nameserver 10.0.2.3\noptions ndots:5\n"), "rw"),
        bindMount("/etc/hosts", hostFile(world, "hosts", "127.0.0.1 localhost\n10.0.2.100 pod\n"), "rw"),
        bindMount("/etc/hostname", hostFile(world, "hostname", "pod\n"), "ro"),
      ];
      const script =
        "ls /config; cat /config/key; echo; readlink /config/key; readlink /config/..data; stat -L -c %a /config/key; cat /etc/resolv.conf /etc/hosts /etc/hostname; hostname; echo x > /config/key";
      expect(await outcome(script, { mounts })).toEqual({
        status: 1,
        stdout: "key\nother\nvalue\n..data/key\n..2026_01\n640\nnameserver 10.0.2.3\noptions ndots:5\n127.0.0.1 localhost\n10.0.2.100 pod\npod\npod\n",
        stderr: "sh: can't create /config/key: Read-only file system\n",
      });
    });

    it("containers share memory, a volume and, if they ask for it, processes", async () => {
      const linux = { namespaces: [{ type: "pid", path: "/proc/1/ns/pid" }, { type: "mount" }] };
      const options = { mounts: [bindMount("/dev/shm", "/run/shm"), emptyDir(world, "common", "/mnt")], volumes: VOLUMES };
      const first = await busybox("echo memory > /dev/shm/a; echo file > /mnt/a; echo written; exec sleep 1000", options);
      await first.wrote(/written/);
      expect(
        await outcome("cat /dev/shm/a /mnt/a; df -m /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2; ps -o pid,args | grep -c '[s]leep 1000'", {
          ...options,
        }),
      ).toMatchObject({
        stdout: "memory\nfile\n64\n0\n",
      });
      expect((await outcome("ps -o pid,args | tr -s ' ' | grep '[s]leep'", { ...options, linux })).stdout).toMatch(/^ ?1 sleep 100000\n/);
      expect(await ended(first, SIGTERM)).toBe(137);
    });

    it("an image has 24 layers, the upper ones first", async () => {
      const layers = await Promise.all(
        Array.from({ length: 24 }, (_, index) => world.layer([directoryItem("l"), textItem(`l/${index}`, ""), textItem("top", `${index}\n`)])),
      );
      expect(await outcome("ls /l | wc -l; cat /top", { layers: [...images.busybox, ...layers.slice(1)] })).toMatchObject({ status: 0, stdout: "23\n23\n" });
    });
  });

  describe("limits", () => {
    it("a container without memory is killed, and the host hears why", async () => {
      const event = agent.unary(AgentService.method.getOOMEvent, {});
      const greedy = await run({
        layers: images.busybox,
        args: ["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"],
        linux: { resources: { memory: { limit: 32 * 1024 * 1024 } } },
      });
      expect(await greedy.process.exited).toBe(137);
      expect((await event).containerId).toBe(greedy.container.id);
      await greedy.container.remove();
    });

    it("limits are those of the specification until they are changed", async () => {
      const resources = { memory: { limit: 64 * 1024 * 1024 }, cpu: { quota: 50_000, period: 100_000, shares: 512 } };
      const limited = await busybox("exec sleep 1000", { linux: { resources }, mounts: [CGROUP] });
      const { id } = limited.container;
      const limits = async (): Promise<string> => (await limited.exec("sh", "-c", "cd /sys/fs/cgroup && cat cpu.max memory.max pids.max")).stdout;
      expect(await limits()).toBe("50000 100000\n67108864\nmax\n");
      await agent.unary(AgentService.method.updateContainer, {
        containerId: id,
        resources: { Memory: { Limit: 128n << 20n }, CPU: { Quota: 20_000n, Period: 100_000n }, Pids: { Limit: 4n } },
      });
      const forks = await limited.exec("sh", "-c", "cat /sys/fs/cgroup/cpu.max; for i in 1 2 3 4 5; do sleep 3 & done");
      expect([forks.stdout, forks.stderr, forks.status]).toEqual(["20000 100000\n", expect.stringMatching(/can't fork/), 2]);
      expect(await ended(limited, SIGKILL)).toBe(137);
    });

    it("a container stands still while it is paused, and what it uses is told", async () => {
      const busy = await busybox("while :; do i=$((i + 1)); done");
      const { id: containerId } = busy.container;
      const used = async (): Promise<bigint> =>
        (await agent.unary(AgentService.method.statsContainer, { containerId })).cgroupStats?.cpuStats?.cpuUsage?.totalUsage ?? 0n;
      const growing = async (from: bigint): Promise<bigint> => {
        for (;;) {
          const now = await used();
          if (now > from) return now;
        }
      };
      await growing(await growing(0n));
      await agent.unary(AgentService.method.pauseContainer, { containerId });
      const [before, after] = [await used(), await used()];
      expect(after).toBe(before);
      await expect(busy.exec("true")).rejects.toThrow(/paused/);
      await agent.unary(AgentService.method.resumeContainer, { containerId });
      await growing(after);
      const { cgroupStats } = await agent.unary(AgentService.method.statsContainer, { containerId });
      expect(cgroupStats?.memoryStats?.usage?.usage).toBeGreaterThan(0n);
      expect(cgroupStats?.pidsStats?.current).toBe(1n);
      expect(await ended(busy, SIGKILL)).toBe(137);
    });

    it("a full file system is its container's matter", async () => {
      const small = { destination: "/small", type: "tmpfs", source: "tmpfs", options: ["nosuid", "size=1m"] };
      const { stderr, status, stdout } = await outcome(
        "dd if=/dev/zero of=/small/x bs=64k count=32 2>&1 | grep -o 'No space left on device'; stat -c %s /small/x; rm /small/x && echo text > /small/x",
        { mounts: [small] },
      );
      expect([status, stdout, stderr]).toEqual([0, "No space left on device\n1048576\n", ""]);
    });
  });

  describe("processes", () => {
    it.each([
      ["exit 0", 0],
      ["exit 3", 3],
      ["sleep 1000 & kill -9 $!; wait $!", 137],
    ])("%s is status %i", async (script, status) => {
      expect((await outcome(script)).status).toBe(status);
    });

    it.each([
      ["a program that does not exist", ["/no/such/program"], /executable file `\/no\/such\/program` not found|No such file/],
      ["one that cannot be run", ["/etc/passwd"], /[Pp]ermission denied|EACCES/],
    ])("%s is an error that says so", async (_, args, message) => {
      await expect(run({ layers: images.busybox, args }).then(({ process }) => process.exited)).rejects.toThrow(message);
      await expect(pause.exec(...args)).rejects.toThrow(message);
    });

    it("a process that ignores SIGTERM is killed with all that it started", async () => {
      const stubborn = await busybox("trap 'echo no' TERM; sleep 1000 & sleep 1000 & echo ready; while :; do wait; done");
      await stubborn.wrote(/ready/);
      await stubborn.container.signal(SIGTERM);
      await stubborn.wrote(/no/);
      expect(await ended(stubborn, SIGKILL)).toBe(137);
    });

    it("a container with a terminal: size, input, Ctrl-C, end", async () => {
      const shell = await run({ layers: images.busybox, args: ["sh"], terminal: true, env: ["PS1=> "] });
      await shell.wrote(/> /);
      const { process } = shell;
      await process.resize(33, 101);
      await process.writeStdin(Buffer.from("tty; stty size; sleep 1000\n"));
      await shell.wrote(/\/dev\/[^]*33 101\r\n/);
      await process.writeStdin(Buffer.from("\u0003"));
      await shell.wrote(/\^C/);
      await process.writeStdin(Buffer.from("echo status $?\n"));
      await shell.wrote(/status 130/);
      await process.writeStdin(Buffer.from("exit 4\n"));
      expect(await process.exited).toBe(4);
      await shell.container.remove();
    });

    it("another process with a terminal", async () => {
      const screen = new Screen();
      const shell = await pause.container.exec({
        execId: "terminal",
        process: { terminal: true, consoleSize: { height: 20, width: 70 }, user: { uid: 0, gid: 0 }, args: ["sh"], env: ["PATH=/usr/bin", "PS1=> "], cwd: "/" },
        stdout: screen,
      });
      await shell.writeStdin(Buffer.from("stty size\n"));
      await screen.shows(/20 70\r\n/);
      await shell.writeStdin(Buffer.from("sleep 1000\n"));
      await shell.signal(SIGINT);
      await shell.writeStdin(Buffer.from("\u0003exit 5\n"));
      expect(await shell.exited).toBe(5);
    });

    it("16 MB come whole to a slow reader, who holds up nobody else", async () => {
      const output = new Gated();
      const line = "0123456789abcdef0123456789abcde\n";
      const size = 16 * 1024 * 1024;
      const writer = await pause.container.exec({ execId: "writer", process: processOf("sh", "-c", `yes ${line.trim()} | head -c ${size}`), stdout: output });
      await output.began;
      // Nothing of it is read now.
      expect(await pause.exec("sh", "-c", "ps -o args | grep -q '[y]es 0123' && echo runs")).toEqual({ status: 0, stdout: "runs\n", stderr: "" });
      output.open();
      expect(await writer.exited).toBe(0);
      expect([output.length, output.hash.digest("hex")]).toEqual([size, sha256(Buffer.alloc(size, line))]);
    });

    it("4 MB go through a process", async () => {
      const output = new Gated();
      output.open();
      const cat = await pause.container.exec({ execId: "cat", process: processOf("cat"), stdout: output });
      const bytes = randomBytes(4 * 1024 * 1024);
      await cat.writeStdin(bytes);
      await cat.closeStdin();
      expect(await cat.exited).toBe(0);
      expect([output.length, output.hash.digest("hex")]).toEqual([bytes.length, sha256(bytes)]);
    });

    it("its last words are kept for the host", async () => {
      const path = "/dev/termination-log";
      const last = await busybox(`echo "I could not" > ${path}; exit 9`, {
        mounts: [bindMount(path, hostFile(world, "termination", ""), "rw")],
        annotations: { "io.kubernetes.cri.container-type": "container", "io.kubernetes.container.terminationMessagePath": path },
      });
      expect(await last.process.exited).toBe(9);
      const { data } = await agent.unary(AgentService.method.getDiagnosticData, { containerId: last.container.id, logType: "termination_log" });
      expect(data).toBe("I could not\n");
      await last.container.remove();
    });
  });
});

const processOf = (...args: readonly string[]) => ({ terminal: false, user: { uid: 0, gid: 0 }, args, env: ["PATH=/usr/bin"], cwd: "/" });

/** Volumes of the tests: those whose name says so are in memory. */
const VOLUMES: HostVolumes = { owner: () => ({ uid: 0, gid: 0 }), isTmpfs: (path) => Promise.resolve(path.endsWith("-memory")) };

type SpecMount = NonNullable<RunOptions["mounts"]>[number];

/** An emptyDir as kubelet makes it. */
function emptyDir({ directory }: VmWorld, name: string, destination: string): SpecMount {
  const source = join(directory, "volumes/kubernetes.io~empty-dir", name);
  mkdirSync(source, { recursive: true });
  return { destination, type: "bind", source, options: ["rbind", "rprivate", "rw"] };
}

/** Resolves when something listens behind a forwarded port: a connection to it is closed at once until then. */
async function answering(port: number): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      await (await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: "close" } })).arrayBuffer();
      return;
    } catch (error) {
      if (tries === 200) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** Sends bytes to a port; what comes back, up to a length. */
async function exchange(port: number, sent: string | Uint8Array, length: number): Promise<string> {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  try {
    if (typeof sent === "string") socket.write(sent, "latin1");
    else socket.end(sent);
    let answer = "";
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      answer += chunk.toString("latin1");
      if (answer.length >= length) return answer;
    }
    return answer;
  } finally {
    socket.destroy();
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function buildImages(world: VmWorld, packages: Packages) {
  const layer = (names: readonly string[], format?: ContainerLayer["format"], keep?: (path: string) => boolean): Promise<ContainerLayer> =>
    world.layer(packageItems(packages, names, keep), format);
  const base = await world.layer(baseItems(packages));
  const libraries = await layer(PACKAGES.libraries);
  const system = await layer(PACKAGES.system);
  const nginx = await layer(PACKAGES.nginx);
  const site = await world.layer([
    directoryItem("etc"),
    directoryItem("etc/nginx"),
    directoryItem("etc/nginx/conf.d"),
    textItem("etc/nginx/conf.d/site.conf", "server { listen 8080; root /srv; }\n"),
    directoryItem("etc/nginx/sites-available"),
    whiteoutItem("etc/nginx/sites-available/default"),
    directoryItem("etc/nginx/snippets"),
    opaqueItem("etc/nginx/snippets"),
    textItem("etc/nginx/snippets/own.conf", "# nothing\n"),
    directoryItem("srv"),
    textItem("srv/index.html", "ready\n"),
    textItem("srv/page.txt", "from the upper layer\n"),
    directoryItem("var"),
    directoryItem("var/log"),
    directoryItem("var/log/nginx"),
    linkItem("var/log/nginx/access.log", "/dev/stdout"),
    linkItem("var/log/nginx/error.log", "/dev/stderr"),
  ]);
  const redis = await layer(PACKAGES.redis);
  const python = await layer(PACKAGES.python, "tar");
  const script = await world.layer([linkItem("usr/bin/python3", "python3.11"), textItem("app/server.py", PYTHON_SERVER), directoryItem("cache")]);
  const postgres = await layer(PACKAGES.postgres);
  const gosu = await layer(PACKAGES.static);
  const privileged = await world.layer(privilegedItems(packages));
  return {
    busybox: [base],
    nginx: [base, libraries, nginx, site],
    redis: [base, libraries, system, redis],
    python: [base, libraries, python, script],
    postgres: [base, libraries, system, postgres],
    static: [base, gosu],
    tools: [base, libraries, privileged],
  };
}

/** Programs that get rights from their files: `id` of root, and `ping` with a capability. */
async function* privilegedItems(packages: Packages): AsyncGenerator<TarItem> {
  yield directoryItem("opt");
  for await (const item of packageItems(packages, PACKAGES.tools, (path) => path === "usr/bin/id")) yield { ...item, path: "opt/id", mode: 0o4755 };
  for await (const item of packageItems(packages, PACKAGES.base, (path) => path === "usr/bin/busybox"))
    yield { ...item, path: "opt/ping", xattrs: fileCapabilities(1 << NET_RAW) };
}

/** A directory as kubelet writes a ConfigMap: the files are links through one that can be changed at once. */
function configMap({ directory }: VmWorld, files: Readonly<Record<string, string>>): string {
  const path = join(directory, "volumes/kubernetes.io~configmap/config");
  mkdirSync(join(path, "..2026_01"), { recursive: true });
  symlinkSync("..2026_01", join(path, "..data"));
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(join(path, "..2026_01", name), text, { mode: 0o640 });
    symlinkSync(`..data/${name}`, join(path, name));
  }
  return path;
}

function hostFile({ directory }: VmWorld, name: string, text: string): string {
  const path = join(directory, name);
  writeFileSync(path, text, { mode: 0o644 });
  return path;
}

const bindMount = (destination: string, source: string, ...options: readonly string[]): SpecMount => ({
  destination,
  type: "bind",
  source,
  options: ["rbind", "rprivate", ...options],
});

const CGROUP: SpecMount = { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["nosuid", "noexec", "nodev", "relatime", "ro"] };

/** Takes bytes, at the speed of whoever holds its gate. */
class Gated implements ByteSink {
  readonly hash = createHash("sha256");
  length = 0;
  readonly #gate = Promise.withResolvers<void>();
  readonly #first = Promise.withResolvers<void>();

  /** Resolves when the first bytes have come. */
  get began(): Promise<void> {
    return this.#first.promise;
  }

  open(): void {
    this.#gate.resolve();
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#first.resolve();
    await this.#gate.promise;
    this.length += bytes.length;
    this.hash.update(bytes);
  }
}

/** What a terminal shows, and who waits for it. */
class Screen implements ByteSink {
  text = "";
  #changed = Promise.withResolvers<void>();

  async write(bytes: Uint8Array): Promise<void> {
    this.text += Buffer.from(bytes).toString("utf8");
    this.#changed.resolve();
    this.#changed = Promise.withResolvers<void>();
  }

  async shows(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.text)) await this.#changed.promise;
  }
}
