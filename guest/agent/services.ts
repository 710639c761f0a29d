import { AgentService, type DescMessage, Health, HealthCheckResponse_ServingStatus } from "@sealpod/proto";
import { implement, type TtrpcService } from "@sealpod/ttrpc";
import type { Gate } from "./gate.ts";
import { AGENT_VERSION, type Method, type MethodTable } from "./methods.ts";

/** Version of the API, as the known agent states it. */
const GRPC_VERSION = "0.0.1";

/**
 * `grpc.Health`, which no policy gates: a host must be able to see that the agent is there, and learns nothing else from it. And `grpc.AgentService`,
 * every method of which goes through the one fallback, so that none can be served past the gate.
 */
export function agentServices(gate: Gate, methods: MethodTable): readonly TtrpcService[] {
  const rows: Readonly<Record<string, Method<DescMessage, DescMessage>>> = methods;
  return [
    implement(Health, {
      check: () => ({ status: HealthCheckResponse_ServingStatus.SERVING }),
      version: () => ({ grpcVersion: GRPC_VERSION, agentVersion: AGENT_VERSION }),
    }),
    implement(AgentService, {}, (method, request) => gate.call(method, rows[method.localName] ?? {}, request)),
  ];
}
