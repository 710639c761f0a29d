import { LAUNCH_ID, ProcessorClient } from "@sealpod/processor";
import { cleanUpMachine } from "@sealpod/vmm";
import type { Leftovers } from "./delete.ts";
import { removePodNetwork } from "./pod-network.ts";

/** Milliseconds for the machine: containerd gives `delete` five seconds, with Node's start and the shim's own end in them. */
const MACHINE_LIMIT = 3000;

/** Ends launches of others. */
class LeftLaunch extends ProcessorClient {
  async end(launch: string): Promise<void> {
    await this.call("DELETE", `/launch/${launch}`, 204);
  }
}

/** What cleans up after machines on this host. */
export const leftovers: Leftovers = {
  machine: (runDirectory) => cleanUpMachine(runDirectory, { limitMs: MACHINE_LIMIT }),
  // It begins when the machine has ended, and most of the time was for that.
  network: (namespace) => removePodNetwork({ namespace }),
  async launch(processor, launch) {
    if (!LAUNCH_ID.test(launch)) return;
    // One that was restarted, or is no more, has no launches of before.
    await new LeftLaunch(processor).end(launch).catch(() => undefined);
  },
};
