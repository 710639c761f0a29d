import { asArray, asObject, fromHex, type JsonObject, type JsonValue, messageOf, parseJson } from "@sealpod/core";
import { HOST_DATA_SIZE } from "@sealpod/snp";
import { PspError } from "./errors.ts";

/**
 * The protocol between programs of one laptop and its emulated security processor: HTTP/1.1 and JSON over a unix socket.
 * `POST /launch` LaunchRequest → 201 LaunchResponse; `DELETE /launch/<id>` → 204;
 * `POST /launch/<id>/report` ReportRequest → 200 ReportResponse; `GET /launch/<id>/files` → 200 FilesResponse; `GET /chain` → PEM of VCEK, ASK, ARK; `GET /root` → RootResponse.
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

/** Asks for a report about a launched guest; it comes from the host that runs the guest, on the guest's behalf. */
export interface ReportRequest {
  /** 1 to 64 bytes, in hex on the wire. */
  readonly reportData: Uint8Array;
}

/** Answer to a report request; bytes are base64 on the wire. */
export interface ReportResponse {
  readonly report: Uint8Array;
  /** The certificate table of an extended report. */
  readonly certificates: Uint8Array;
}

/** Largest body of a request or an answer: paths and a command line. */
export const MAX_BODY: number = 256 * 1024;

/** Ids of launches: 32 hex digits. */
export const LAUNCH_ID: RegExp = /^[0-9a-f]{32}$/;

/** REPORT_DATA on the wire. */
const REPORT_DATA = /^(?:[0-9a-f]{2}){1,64}$/;

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

/**
 * Reads a report request.
 * @throws {PspError} ERR_PSP_INPUT
 */
export function parseReportRequest(text: string): ReportRequest {
  const body = parseObject(text, "report request", (problem, cause) => new PspError("ERR_PSP_INPUT", problem, { cause }));
  const { reportData, ...others } = { reportData: undefined, ...body };
  if (Object.keys(others).length > 0 || typeof reportData !== "string" || !REPORT_DATA.test(reportData))
    throw new PspError("ERR_PSP_INPUT", "report request: expected reportData alone, 1 to 64 bytes in lower-case hex");
  return { reportData: fromHex(reportData) };
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
