import type { JsonObject, JsonValue } from "@sealpod/core";
import {
  type CopyFileRequest,
  CopyFileRequestSchema,
  create,
  CreateContainerRequestSchema,
  type DescMessage,
  isMessage,
  type Message,
  policyInput,
} from "@sealpod/proto";
import type { CompileOptions } from "@sealpod/rego";
import { shown } from "./confined-directory.ts";
import { type CopiedKind, copiedKind, copiedLinkTarget } from "./copy-file.ts";
import { AgentError } from "./errors.ts";
import type { ExitStatusForm } from "./sandbox.ts";

/** What differs between the generations of the agent's policies: nothing outside this file asks which one it is (DESIGN section 3). */
export interface Profile {
  readonly name: string;
  /** Dialect of Rego that policies are written in; `import rego.v1` makes any of them v1. */
  readonly rego: Pick<CompileOptions, "version" | "allowRecursiveFunctions">;
  /** True if the pod's policy comes as initdata, before the agent listens; else it comes by SetPolicy. */
  readonly initdata: boolean;
  /** How an exit by signal is told. The agents of the first generation gave the number alone; everything that reads it today expects 128 more. */
  readonly exitStatus: ExitStatusForm;
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
  initdata: false,
  exitStatus: "shell",
  input(schema, request) {
    if (isMessage(request, CreateContainerRequestSchema)) {
      return { base: policyInput(schema, request), env_map: environmentMap(request.OCI?.Process?.Env ?? []) };
    }
    if (isMessage(request, CopyFileRequestSchema)) {
      const symlinkSource = copiedLinkTarget(request) ?? "";
      return { ...withoutData(request), symlink_src: symlinkSource };
    }
    return policyInput(schema, request);
  },
};

/** What {@link CopiedKind} is called in policies. */
const FILE_TYPES: Readonly<Record<CopiedKind, string>> = { regular: "Regular", directory: "Directory", symlink: "Symlink" };

/** Upstream Kata and CoCo: every request bare, CopyFile reduced in another way (specs/runtime.md 3.5). */
const coco: Profile = {
  name: "coco",
  // Its rules know no function that calls itself, and the engine that they are written for is no stricter: nothing is lost by refusing.
  rego: { version: "v0" },
  initdata: true,
  exitStatus: "shell",
  input(schema, request) {
    if (!isMessage(request, CopyFileRequestSchema)) return policyInput(schema, request);
    return { ...withoutData(request), file_type: FILE_TYPES[copiedKind(request)], symlink_target: copiedLinkTarget(request) ?? null };
  },
};

/** CopyFile without the bytes, which may be a mebibyte and mean nothing to a rule. */
function withoutData(request: CopyFileRequest): JsonObject {
  const { data: _, ...fields } = policyInput(CopyFileRequestSchema, create(CopyFileRequestSchema, { ...request, data: new Uint8Array(0) }));
  return fields;
}

/** Profiles by name. */
export const PROFILES: ReadonlyMap<string, Profile> = new Map([aks, coco].map((profile) => [profile.name, profile]));

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
