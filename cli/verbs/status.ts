import { join } from "node:path";
import { isSealpodError } from "@sealpod/core";
import { listPods } from "@sealpod/pod";
import { EMULATED_NOTICE } from "@sealpod/psp";
import { readUp, type Up } from "@sealpod/services";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { stateOf } from "../workspace.ts";

/** `sealpod status`. */
export const run: Verb<object> = async (options, _operands, context) => {
  const state = stateOf(options, context);
  const up = await readUp(state).catch((error: unknown): Up | undefined => {
    if (isSealpodError(error) && error.code === "ERR_SERVICES_NOT_RUNNING") return undefined;
    throw error;
  });
  const pods = await listPods(join(state, "run"));
  if (options.json === true) {
    const services = up === undefined ? null : { pid: up.pid, endpoints: up.endpoints };
    context.stdout.write(
      `${JSON.stringify({ state, services, emulated: EMULATED_NOTICE, pods: pods.map(({ directory: _directory, ...pod }) => pod) }, undefined, 2)}\n`,
    );
    return EXIT.ok;
  }
  const lines = [
    up === undefined
      ? `services  not running (state directory ${state})`
      : `services  running, process ${up.pid}, port ${up.port}; security processor: ${EMULATED_NOTICE}`,
  ];
  for (const pod of pods) {
    const ports = pod.ports.map((port) => `127.0.0.1:${port.host}->${port.container}`).join(", ");
    lines.push(`pod       ${pod.namespace}/${pod.name}  ${pod.id.slice(0, 12)}  process ${pod.pid}  ${ports}`);
  }
  if (pods.length === 0) lines.push("pods      none");
  context.stdout.write(`${lines.join("\n")}\n`);
  return EXIT.ok;
};
