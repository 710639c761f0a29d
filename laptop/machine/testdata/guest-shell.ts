import { encodeUtf8 } from "@sealpod/core";
import type { ContainerLayer } from "@sealpod/sandbox";
import type { RunningContainer, VmSandbox } from "../test-support.ts";

/** The guest's own /proc, in a container with a {@link GuestShell}. */
export const GUEST_PROC = "/guest";

/** The guest's own root, seen from the same. */
export const GUEST_ROOT: string = `${GUEST_PROC}/1/root`;

/** What it takes to look through another process's root, and at everybody's files. */
const CAPABILITIES = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"];

/** Runs one line after the other, and says when it is done. */
const LOOP = 'while read -r number line; do eval "$line" 2>&1; echo "<$number>"; done';

/** A shell in a container that sees the whole guest: what a test looks through. It needs no request but ReadStream and WriteStream of its container. */
export class GuestShell {
  readonly container: RunningContainer;
  #number = 0;

  private constructor(container: RunningContainer) {
    this.container = container;
  }

  /** @param layers have `/bin/sh`, which is busybox */
  static async start(pod: VmSandbox, layers: readonly ContainerLayer[]): Promise<GuestShell> {
    return new GuestShell(
      await pod.run({
        layers,
        args: ["/bin/sh", "-c", LOOP],
        mounts: [{ destination: GUEST_PROC, type: "bind", source: "/proc", options: ["rbind"] }],
        capabilities: CAPABILITIES,
      }),
    );
  }

  /** What a command writes, to either stream; it is one line. */
  async ask(command: string): Promise<string> {
    const number = ++this.#number;
    const from = this.container.stdout().length;
    await this.container.process.writeStdin(encodeUtf8(`${number} ${command}\n`));
    await this.container.wrote(new RegExp(`<${number}>\n`));
    const text = this.container.stdout().slice(from);
    return text.slice(0, text.lastIndexOf(`<${number}>`)).trimEnd();
  }

  /** The output of a command once it is not `before`; what changes in the guest may take a moment to show. */
  async changed(command: string, before: string): Promise<string> {
    return this.ask(
      `n=0; while v=$(${command}); [ "$v" = '${before}' ] && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1; done; printf %s "$v"`,
    );
  }
}
