import { randomBytes } from "node:crypto";
import type { Clock, Random } from "@sealpod/core";
import type { CommonSettings } from "./common-settings.ts";
import { runServiceProgram, type ServiceProgram } from "./program.ts";
import type { SettingsSchema } from "./settings.ts";

/** What a service that is the whole of a process is made with. */
export interface ServiceMainPorts {
  readonly clock: Clock;
  readonly random: Random;
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
  /** User that the process runs as; undefined where there are none. */
  readonly uid: number | undefined;
  readonly cwd: string;
  readonly ownsProcess: true;
}

/** What {@link runServiceMain} takes of a process. */
export type MainProcess = Pick<NodeJS.Process, "argv" | "env" | "cwd" | "getuid" | "umask" | "on" | "exit"> & {
  readonly stdout: Pick<NodeJS.WriteStream, "write">;
  readonly stderr: Pick<NodeJS.WriteStream, "write">;
};

/** All that a service's `main.ts` does, to the end of the process: see {@link runServiceProgram}. What the service writes, such as its database, is its own user's alone. */
export async function runServiceMain<const S extends SettingsSchema & CommonSettings>(
  make: (ports: ServiceMainPorts) => ServiceProgram<S>,
  own: MainProcess,
): Promise<void> {
  own.umask(0o077);
  const clock = { now: () => Date.now() };
  const program = make({
    clock,
    random: { bytes: (length) => new Uint8Array(randomBytes(length)) },
    fetch: async (url, init) => fetch(url, init),
    uid: own.getuid?.(),
    cwd: own.cwd(),
    ownsProcess: true,
  });
  const code = await runServiceProgram(program, {
    argv: own.argv.slice(2),
    env: own.env,
    cwd: own.cwd(),
    clock,
    stdout: (text) => void own.stdout.write(text),
    stderr: (text) => void own.stderr.write(text),
    log: 1,
    onSignal: (name, handler) => void own.on(name, handler),
    onExit: (handler) => void own.on("exit", handler),
    exit: (status) => own.exit(status),
  });
  own.exit(code);
}
