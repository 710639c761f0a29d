import type { JsonObject, JsonValue } from "@sealpod/core";
import { create, isMessage, policyInput, CopyFileRequestSchema, CreateContainerRequestSchema, type DescMessage, type Message } from "@sealpod/proto";
import type { CompileOptions } from "@sealpod/rego";
import { shown } from "./confined-directory.ts";
import { copiedLinkTarget } from "./copy-file.ts";
import { AgentError } from "./errors.ts";

/** What differs between the generations of the agent's policies: nothing outside this file asks which one it is (DESIGN section 3). */
export interface Profile {
  readonly name: string;
  /** Dialect of Rego that policies are written in. */
  readonly rego: Pick<CompileOptions, "version" | "allowRecursiveFunctions">;
  /**
   * What a policy gets as `input`.
   * @throws {AgentError} ERR_AGENT_REQUEST if the policy could not see what the request would do
   */
  input(schema: DescMessage, request: Message): JsonValue;
}

/** AKS Confidential Containers: a wrapped CreateContainer, a reduced CopyFile, everything else bare (specs/runtime.md 3.5). */
const aks: Profile = {
  name: "aks",
  // The rules of some releases have a function that calls itself; the engine bounds its depth.
  rego: { version: "v0", allowRecursiveFunctions: true },
  input(schema, request) {
    if (isMessage(request, CreateContainerRequestSchema)) {
      return { base: policyInput(schema, request), env_map: environmentMap(request.OCI?.Process?.Env ?? []) };
    }
    if (isMessage(request, CopyFileRequestSchema)) {
      const symlinkSource = copiedLinkTarget(request) ?? "";
      const { data: _, ...fields } = policyInput(schema, create(CopyFileRequestSchema, { ...request, data: new Uint8Array(0) }));
      return { ...fields, symlink_src: symlinkSource };
    }
    return policyInput(schema, request);
  },
};

/** Profiles by name. */
export const PROFILES: ReadonlyMap<string, Profile> = new Map([[aks.name, aks]]);

/**
 * Environment by name.
 * @throws {AgentError} ERR_AGENT_REQUEST if a name comes twice: the map has one of the values, the process may take the other
 */
function environmentMap(environment: readonly string[]): JsonObject {
  const map = Object.create(null) as Record<string, string>;
  for (const variable of environment) {
    const equals = variable.indexOf("=");
    if (equals < 1) throw new AgentError("ERR_AGENT_REQUEST", `environment entry ${shown(variable.slice(0, 32))} is not NAME=VALUE`);
    const name = variable.slice(0, equals);
    if (Object.hasOwn(map, name)) throw new AgentError("ERR_AGENT_REQUEST", `environment variable ${shown(name)} is given twice`);
    map[name] = variable.slice(equals + 1);
  }
  return map;
}
