import type { DescMessage, Message } from "@sealpod/proto";
import { shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

/** Longest id. Kubernetes' are 64 characters; ids become directory names, whose limit is 255. */
const MAX_ID_LENGTH = 128;

/** Grammar of ids (specs/runtime.md 2.5): nothing in it means anything in a path, a JSON pointer or an argument list. */
const ID = /^[A-Za-z0-9][A-Za-z0-9_.-]+$/;

/**
 * Ids that would not name a container. The first three are keys that known rules keep beside the container ids in `data.pstate`: a container
 * of that name would overwrite what the policy remembers (specs/rego.md 4.10). The others are directories of the agent beside those of the
 * containers.
 */
const RESERVED: ReadonlySet<string> = new Set(["namespace", "network_namespace", "sandbox_name", "sandbox", "shared"]);

/** Fields of requests that hold ids, by their name in the API. The id of the sandbox becomes neither a key nor a directory. */
const ID_FIELDS: ReadonlyMap<string, { readonly optional?: true; readonly reserved: ReadonlySet<string> }> = new Map([
  ["container_id", { reserved: RESERVED }],
  ["exec_id", { optional: true, reserved: RESERVED }],
  ["sandbox_id", { reserved: new Set<string>() }],
]);

/**
 * Checks every id of a request. Called before the policy is asked, because rules put ids into JSON pointers and patterns as they are.
 * @throws {AgentError} ERR_AGENT_ID
 */
export function validateIds(schema: DescMessage, request: Message): void {
  for (const field of schema.fields) {
    const need = ID_FIELDS.get(field.name);
    const id: unknown = (request as unknown as Readonly<Record<string, unknown>>)[field.localName];
    if (need === undefined || typeof id !== "string" || (id === "" && need.optional === true)) continue;
    if (id.length > MAX_ID_LENGTH || !ID.test(id) || need.reserved.has(id)) {
      const expected = `a letter or digit, then letters, digits, '_', '.' or '-', at most ${MAX_ID_LENGTH}, and no reserved word`;
      throw new AgentError("ERR_AGENT_ID", `${field.name} ${shown(id)} is not an id: expected ${expected}`, {
        details: { field: field.name, found: shown(id) },
      });
    }
  }
}
