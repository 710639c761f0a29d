import type { Logger } from "@sealpod/core";
import type { GuestNetwork } from "@sealpod/sandbox";
import { createTaps, removeTaps, type NetworkConfig } from "@sealpod/vmm";
import { closePortForward, forwardTargets, openPortForward, type PortForward } from "./port-forward.ts";

/** Milliseconds for taking back what a shim left that was ended by force: part of the five seconds that containerd gives `delete`. */
const REMOVAL_LIMIT = 3000;

/** Options of {@link openPodNetwork}. */
export interface PodNetworkOptions {
  /** Absolute path of the pod's network namespace. */
  readonly namespace: string;
  /** Whether connections to the namespace's loopback address reach the guest. */
  readonly portForward: boolean;
  readonly logger?: Logger;
  /** Where programs are searched. Default that of `@sealpod/vmm`. */
  readonly programDirectories?: readonly string[];
}

/** The network of a pod's guest. */
export interface PodNetwork {
  /** For the machine's configuration. */
  readonly network: NetworkConfig;
  /** What the agent is told; without interfaces it is told nothing. */
  readonly guest: GuestNetwork;
  /** Whether ports are forwarded, and if not why. Never rejects. The machine need not wait for it: nobody asks for a port before it runs. */
  readonly portForward: Promise<PortForward>;
  /**
   * Takes everything back, when the machine has ended. What is gone already, the whole namespace included, is no error; calls after the first wait
   * for the same end.
   * @throws {VmmError}
   */
  remove(): Promise<void>;
}

/**
 * Joins the interfaces of a pod's namespace to cards of its machine (specs/runtime.md 4.12) and, if wished, forwards connections to the
 * loopback address (5.4). Where no ports can be forwarded, the pod has its network all the same. If another step fails, those before it are taken back.
 * @throws {VmmError} ERR_VMM_CONFIG for what no guest can be given, ERR_VMM_UNAVAILABLE, ERR_VMM_BOOT for a command that fails
 */
export async function openPodNetwork({ namespace, portForward, logger, ...where }: PodNetworkOptions): Promise<PodNetwork> {
  const options = { ...where, namespace };
  const taps = await createTaps(options);
  const forwarded: Promise<PortForward> = portForward
    ? openPortForward(forwardTargets(taps.network, taps.interfaces), options, logger)
    : Promise.resolve({ families: [], reason: "it is off in the shim's configuration" });
  const remove = async (): Promise<void> => {
    // Not while it is still made.
    const { families } = await forwarded;
    await both(families.length === 0 ? Promise.resolve() : closePortForward(options), taps.remove());
  };
  let removed: Promise<void> | undefined;
  return {
    network: { kind: "tap", namespace, interfaces: taps.interfaces },
    guest: taps.network,
    portForward: forwarded,
    remove: () => (removed ??= remove()),
  };
}

/**
 * Takes back what {@link openPodNetwork} made in a namespace, for a process that no longer runs. Nothing there is no error, nor is a namespace that is
 * gone; what others made in it stays.
 * @param options.limitMs milliseconds until it is given up, default 3000
 * @throws {VmmError}
 */
export async function removePodNetwork(options: {
  readonly namespace: string;
  readonly limitMs?: number;
  readonly programDirectories?: readonly string[];
}): Promise<void> {
  const { limitMs = REMOVAL_LIMIT, ...where } = options;
  const bounded = { ...where, signal: AbortSignal.timeout(limitMs) };
  await both(closePortForward(bounded), removeTaps(bounded));
}

/** Waits for both, also if one fails. */
async function both(...ends: readonly Promise<unknown>[]): Promise<void> {
  for (const end of await Promise.allSettled(ends)) if (end.status === "rejected") throw end.reason;
}
