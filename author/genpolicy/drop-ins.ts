import { asArray, asObject, type JsonValue, messageOf } from "@sealpod/core";
import { applyPatch, type Operation } from "rfc6902";
import { GenpolicyError } from "./errors.ts";

const OPERATIONS: ReadonlySet<string> = new Set(["add", "remove", "replace", "move", "copy", "test"]);

/**
 * Settings with a drop-in file applied: an RFC 6902 patch, all of it or an error.
 * @param name path of the drop-in, for messages
 * @throws {GenpolicyError} ERR_GENPOLICY_SETTINGS
 */
export function applyDropIn(settings: JsonValue, patch: JsonValue, name: string): JsonValue {
  const operations = asArray(patch)?.map((operation, index) => operationOf(operation, index, name));
  if (operations === undefined) throw refusal(name, "is not a JSON Patch: expected an array of operations (RFC 6902)");
  const patched = structuredClone(settings);
  let failures: readonly (Error | null)[];
  try {
    failures = applyPatch(patched, operations);
  } catch (error) {
    throw refusal(name, messageOf(error));
  }
  for (const [index, failure] of failures.entries()) if (failure !== null) throw refusal(name, `operation ${index} fails: ${failure.message}`);
  return patched;
}

function operationOf(operation: JsonValue, index: number, name: string): Operation {
  const object = asObject(operation);
  const { op, path, from } = object ?? {};
  if (object === undefined || typeof op !== "string" || !OPERATIONS.has(op) || typeof path !== "string") {
    throw refusal(
      name,
      `operation ${index} is not one of RFC 6902: expected {"op": ${[...OPERATIONS].map((known) => JSON.stringify(known)).join(" | ")}, "path": …}`,
    );
  }
  // A patch of the whole document, or along a prototype, is never what a drop-in means.
  for (const pointer of [path, from]) {
    if (typeof pointer !== "string") continue;
    if (pointer === "" || pointer.split("/").some((token) => token === "__proto__" || token === "constructor" || token === "prototype")) {
      throw refusal(name, `operation ${index} has the path ${JSON.stringify(pointer)}`);
    }
  }
  return object as unknown as Operation;
}

function refusal(name: string, problem: string): GenpolicyError {
  return new GenpolicyError("ERR_GENPOLICY_SETTINGS", `${name}: ${problem}`, { details: { file: name } });
}
