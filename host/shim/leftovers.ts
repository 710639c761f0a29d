import { LAUNCH_ID, ProcessorClient } from "@sealpod/processor";
import { cleanUpMachine } from "@sealpod/vmm";
import type { Leftovers } from "./delete.ts";
import { removeCgroup } from "./pod-cgroup.ts";
import { removePodNetwork } from "./pod-network.ts";

/** Ends launches of others. */
class LeftLaunch extends ProcessorClient {
  async end(launch: string): Promise<void> {
    await this.call("DELETE", `/launch/${launch}`, 204);
  }
}

/** What cleans up after machines on this host. */
export const leftovers: Leftovers = {
  machine: (runDirectory, limitMs) => cleanUpMachine(runDirectory, { limitMs }),
  network: (namespace, limitMs) => removePodNetwork({ namespace, limitMs }),
  async launch(processor, launch) {
    if (!LAUNCH_ID.test(launch)) return;
    // One that was restarted, or is no more, has no launches of before.
    await new LeftLaunch(processor).end(launch).catch(() => undefined);
  },
  cgroup: (path, limitMs) => removeCgroup(path, AbortSignal.timeout(limitMs)),
};
