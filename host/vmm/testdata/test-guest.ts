import { createHash } from "node:crypto";
import { closeSync, existsSync, readFileSync, readdirSync, writeFileSync, writeSync } from "node:fs";
import { createServer } from "node:net";
import { hostname, networkInterfaces } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

// Stands in for the agent in the tests of drivers: answers one line of JSON to each line that it gets. It runs inside the guest.

const { values: options } = parseArgs({
  options: {
    listen: { type: "string" },
    devices: { type: "string" },
    "guest-info": { type: "string" },
    "ready-fd": { type: "string" },
    /** What goes wrong, if anything should. */
    fault: { type: "string" },
  },
});

function answer(line: string): unknown {
  const [verb, argument = ""] = line.split(" ");
  switch (verb) {
    case "echo":
      return argument;
    case "disk":
      return createHash("sha256")
        .update(readFileSync(join(options.devices ?? "", argument)))
        .digest("hex");
    case "write": {
      // A disk that may be written to has another name besides.
      const path = join(options.devices ?? "", `${argument}.writable`);
      if (!existsSync(path)) return false;
      writeFileSync(path, Buffer.alloc(4096, "written"));
      return true;
    }
    case "facts":
      return {
        pid: process.pid,
        hostname: hostname(),
        interfaces: Object.keys(networkInterfaces()).sort(),
        guestInfo: readdirSync(options["guest-info"] ?? "").sort(),
        kataContainers: readdirSync("/run/kata-containers"),
        unified: readFileSync("/proc/self/mountinfo", "utf8").includes(" /sys/fs/cgroup/unified "),
        environment: Object.keys(process.env).sort(),
      };
    case "print":
      process.stdout.write(`${line.slice("print ".length)}\n`);
      return true;
    case "serve":
      createServer((socket) => socket.end(`port ${argument}`)).listen(Number(argument), "0.0.0.0");
      return true;
    case "exit":
      process.exit(Number(argument));
      break;
    default:
      return `unknown: ${line}`;
  }
}

function ready(text: string): void {
  writeSync(Number(options["ready-fd"]), text);
}

if (options.fault === "exit") {
  process.stderr.write("the test guest gives up\n");
  process.exitCode = 7;
} else if (options.fault === "silent") {
  setInterval(() => undefined, 60_000);
} else if (options.fault === "babble") {
  ready("x".repeat(100_000));
} else {
  if (options.fault === "stubborn") process.on("SIGTERM", () => undefined);
  else process.on("SIGTERM", () => process.exit(0));
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    createInterface({ input: socket }).on("line", (line) => socket.write(`${JSON.stringify(answer(line))}\n`));
  });
  server.listen((options.listen ?? "").replace(/^unix:/, ""), () => {
    process.stdout.write("the test guest listens\n");
    ready("ready\n");
    closeSync(Number(options["ready-fd"]));
  });
}
