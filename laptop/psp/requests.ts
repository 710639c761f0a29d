import { asArray, asObject, fromHex, type JsonObject, type JsonValue, messageOf, parseJson } from "@sealpod/core";
import { type LaunchRequest, MAX_PROCESSOR_BODY, type ReportRequest } from "@sealpod/processor";
import { HOST_DATA_SIZE } from "@sealpod/snp";
import { PspError } from "./errors.ts";

/** REPORT_DATA on the wire. */
const REPORT_DATA = /^(?:[0-9a-f]{2}){1,64}$/;

/** Longest path: PATH_MAX of Linux. */
const MAX_PATH = 4096;

/**
 * Reads a launch request; names that it does not have are refused.
 * @throws {PspError} ERR_PSP_INPUT
 */
export function parseLaunchRequest(text: string): LaunchRequest {
  const body = parseObject(text, "launch request");
  const fail = (problem: string): never => {
    throw new PspError("ERR_PSP_INPUT", `launch request: ${problem}`);
  };
  for (const name of Object.keys(body)) if (!["files", "commandLine", "hostData"].includes(name)) fail(`unknown name ${JSON.stringify(name.slice(0, 40))}`);
  const files = (asArray(body["files"]) ?? fail("files is not a list")).map((path) =>
    typeof path === "string" && path.startsWith("/") && path.length <= MAX_PATH && !path.includes("\0")
      ? path
      : fail("files holds something other than absolute paths"),
  );
  const { commandLine, hostData } = { commandLine: body["commandLine"], hostData: body["hostData"] };
  if (typeof commandLine !== "string") return fail("commandLine is not a string");
  if (typeof hostData !== "string" || hostData.length !== HOST_DATA_SIZE * 2 || !/^[0-9a-f]+$/.test(hostData))
    return fail("hostData is not 64 lower-case hex digits");
  return { files, commandLine, hostData: fromHex(hostData) };
}

/**
 * Reads a report request.
 * @throws {PspError} ERR_PSP_INPUT
 */
export function parseReportRequest(text: string): ReportRequest {
  const body = parseObject(text, "report request");
  const { reportData, ...others } = { reportData: undefined, ...body };
  if (Object.keys(others).length > 0 || typeof reportData !== "string" || !REPORT_DATA.test(reportData))
    throw new PspError("ERR_PSP_INPUT", "report request: expected reportData alone, 1 to 64 bytes in lower-case hex");
  return { reportData: fromHex(reportData) };
}

/** Reads a JSON object. */
function parseObject(text: string, what: string): JsonObject {
  let value: JsonValue;
  try {
    value = parseJson(text, what, { maxLength: MAX_PROCESSOR_BODY, maxDepth: 8 });
  } catch (cause) {
    throw new PspError("ERR_PSP_INPUT", messageOf(cause), { cause });
  }
  const object = asObject(value);
  if (object === undefined) throw new PspError("ERR_PSP_INPUT", `${what} is not a JSON object`);
  return object;
}
