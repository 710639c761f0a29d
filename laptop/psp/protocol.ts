import { asArray, asObject, fromHex, type JsonObject, type JsonValue, messageOf, parseJson } from "@sealpod/core";
import { HOST_DATA_SIZE } from "@sealpod/snp";
import { PspError } from "./errors.ts";

/**
 * The protocol between programs of one laptop and its emulated security processor: HTTP/1.1 and JSON over a unix socket.
 * `POST /launch` LaunchRequest → 201 LaunchResponse; `DELETE /launch/<id>` → 204; `GET /chain` → PEM of VCEK, ASK, ARK; `GET /root` → RootResponse.
 * Errors are `{"error":{"code","message"}}`.
 */
export interface LaunchRequest {
  /** Absolute paths of files to measure, in order. */
  readonly files: readonly string[];
  readonly commandLine: string;
  /** 32 bytes, as 64 hex digits on the wire. */
  readonly hostData: Uint8Array;
}

/** Answer to a launch. */
export interface LaunchResponse {
  readonly id: string;
  /** Served until the launch is deleted. */
  readonly guestInfoDirectory: string;
  /** 96 hex digits. */
  readonly launchMeasurement: string;
}

/** Largest body of a request or an answer: paths and a command line. */
export const MAX_BODY: number = 256 * 1024;

/** Ids of launches: 32 hex digits. */
export const LAUNCH_ID: RegExp = /^[0-9a-f]{32}$/;

/** Longest path: PATH_MAX of Linux. */
const MAX_PATH = 4096;

/**
 * Reads a launch request; names that it does not have are refused.
 * @throws {PspError} ERR_PSP_INPUT
 */
export function parseLaunchRequest(text: string): LaunchRequest {
  const body = parseObject(text, "launch request", (problem, cause) => new PspError("ERR_PSP_INPUT", problem, { cause }));
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

/** Reads a JSON object; `failure` makes the error. */
export function parseObject(text: string, what: string, failure: (problem: string, cause?: unknown) => PspError): JsonObject {
  let value: JsonValue;
  try {
    value = parseJson(text, what, { maxLength: MAX_BODY, maxDepth: 8 });
  } catch (cause) {
    throw failure(messageOf(cause), cause);
  }
  const object = asObject(value);
  if (object === undefined) throw failure(`${what} is not a JSON object`);
  return object;
}
