import { request } from "node:http";
import { asArray, asObject, concatBytes, decodeUtf8, fromBase64, fromHex, type JsonObject, type JsonValue, messageOf, parseJson, toHex } from "@sealpod/core";
import { processorApi } from "@sealpod/proto";
import { type ByteStream, implement, serveTtrpc, type TtrpcService } from "@sealpod/ttrpc";
import { ProcessorError } from "./errors.ts";
import { type GuestFile, LAUNCH_ID, type LaunchRequest, MAX_PROCESSOR_BODY, type ReportResponse } from "./protocol.ts";

/** A guest that the emulated security processor launched. */
export interface Launched {
  readonly id: string;
  /** To be seen by the guest as `/run/sealpod`. */
  readonly guestInfoDirectory: string;
  /** 48 bytes. */
  readonly launchMeasurement: Uint8Array;
  /** Serves a connection of the guest itself, over which it speaks ttRPC (`sealpod.v1.SecurityProcessor`). */
  serve(stream: ByteStream): void;
  /** Ends the guest: no more reports, and the directory is removed. */
  close(): Promise<void>;
}

/** Measuring two gigabytes takes some seconds. */
const TIMEOUT_MS = 60_000;

/** SHA-384, as the security processor measures. */
const MEASUREMENT = /^[0-9a-f]{96}$/;

/**
 * Client of an emulated security processor's socket: EMULATED - NO HARDWARE PROTECTION.
 * It has the shape of the launch port of @sealpod/vmm, so machine drivers take it as it is. All methods throw {@link ProcessorError}.
 */
export class ProcessorClient {
  readonly #socketPath: string;
  readonly #hint: string;

  /** @param hint what to do when nobody answers */
  constructor(socketPath: string, hint: string = "Start it: systemctl start sealpod-processor, or sealpod host processor.") {
    this.#socketPath = socketPath;
    this.#hint = hint;
  }

  /**
   * Measures files and a command line, fixes HOST_DATA, and serves the guest's directory until the guest is closed.
   * @param input absolute paths; `hostData` has 32 bytes
   * @throws {ProcessorError} ERR_PROCESSOR_UNAVAILABLE, ERR_PROCESSOR_RESPONSE
   */
  async launch(input: LaunchRequest): Promise<Launched> {
    const body = JSON.stringify({ files: input.files, commandLine: input.commandLine, hostData: toHex(input.hostData) });
    const answer = parseAnswer(await this.call("POST", "/launch", 201, body));
    const id = answerText(answer, "id");
    const measurement = answerText(answer, "launchMeasurement");
    const guestInfoDirectory = answerText(answer, "guestInfoDirectory");
    if (!LAUNCH_ID.test(id) || !MEASUREMENT.test(measurement) || !guestInfoDirectory.startsWith("/")) {
      throw malformedAnswer("id, launchMeasurement or guestInfoDirectory do not have their form");
    }
    let closing: Promise<void> | undefined;
    const close = async (): Promise<void> => {
      closing ??= this.call("DELETE", `/launch/${id}`, 204).then(() => undefined);
      return closing;
    };
    const service = this.#processor(id);
    const serve = (stream: ByteStream): void => void serveTtrpc(stream, [service]);
    return { id, guestInfoDirectory, launchMeasurement: fromHex(measurement), serve, close };
  }

  /**
   * A report about a guest that was launched.
   * @param reportData 1 to 64 bytes
   * @throws {ProcessorError} ERR_PROCESSOR_UNAVAILABLE, ERR_PROCESSOR_RESPONSE
   */
  async fetchReport(id: string, reportData: Uint8Array): Promise<ReportResponse> {
    const answer = parseAnswer(await this.call("POST", `/launch/${id}/report`, 200, JSON.stringify({ reportData: toHex(reportData) })));
    return { report: answerBytes(answer, "report"), certificates: answerBytes(answer, "certificates") };
  }

  /**
   * The files that a guest finds beside its report interface.
   * @throws {ProcessorError} ERR_PROCESSOR_UNAVAILABLE, ERR_PROCESSOR_RESPONSE
   */
  async fetchFiles(id: string): Promise<readonly GuestFile[]> {
    const answer = parseAnswer(await this.call("GET", `/launch/${id}/files`, 200));
    return (asArray(answer["files"]) ?? []).map((item) => {
      const file = asObject(item) ?? {};
      return { path: answerText(file, "path"), data: answerBytes(file, "data") };
    });
  }

  /**
   * One exchange; the body of the answer.
   * @throws {ProcessorError} ERR_PROCESSOR_UNAVAILABLE, ERR_PROCESSOR_RESPONSE
   */
  protected async call(method: string, path: string, expected: number, body?: string): Promise<string> {
    const { status, text } = await this.#exchange(method, path, body);
    if (status === expected) return text;
    const { code, message } = { code: undefined, message: undefined, ...asObject(parseAnswer(text)["error"]) };
    const problem = typeof message === "string" ? message : `status ${status}`;
    throw new ProcessorError("ERR_PROCESSOR_RESPONSE", `emulated security processor: ${method} ${path}: ${problem}`, {
      details: { status, code: typeof code === "string" ? code : undefined },
    });
  }

  /** The processor as one guest reaches it: it can ask about itself alone. */
  #processor(id: string): TtrpcService {
    return implement(processorApi.SecurityProcessor, {
      getReport: async ({ reportData }) => this.fetchReport(id, reportData),
      getFiles: async () => ({ files: (await this.fetchFiles(id)).map(({ path, data }) => ({ path, data })) }),
    });
  }

  async #exchange(method: string, path: string, body: string | undefined): Promise<{ readonly status: number; readonly text: string }> {
    const result = Promise.withResolvers<{ readonly status: number; readonly text: string }>();
    const call = request(
      {
        socketPath: this.#socketPath,
        method,
        path,
        agent: false,
        timeout: TIMEOUT_MS,
        ...(body !== undefined && { headers: { "content-type": "application/json" } }),
      },
      (response) => {
        const chunks: Uint8Array[] = [];
        let length = 0;
        response.on("data", (chunk: Uint8Array) => {
          length += chunk.length;
          if (length > MAX_PROCESSOR_BODY) call.destroy(malformedAnswer(`the answer has more than ${MAX_PROCESSOR_BODY} bytes`));
          else chunks.push(chunk);
        });
        response.on("error", result.reject);
        response.on("end", () => {
          try {
            result.resolve({ status: response.statusCode ?? 0, text: decodeUtf8(concatBytes(...chunks), "answer") });
          } catch (cause) {
            result.reject(malformedAnswer(messageOf(cause)));
          }
        });
      },
    );
    call.on("timeout", () => call.destroy(new Error(`no answer in ${TIMEOUT_MS / 1000} seconds`)));
    call.on("error", result.reject);
    call.end(body);
    try {
      return await result.promise;
    } catch (cause) {
      if (cause instanceof ProcessorError) throw cause;
      throw new ProcessorError("ERR_PROCESSOR_UNAVAILABLE", `the emulated security processor does not answer on ${this.#socketPath}: ${messageOf(cause)}`, {
        cause,
        hint: this.#hint,
      });
    }
  }
}

/**
 * An answer's body, which is a JSON object.
 * @throws {ProcessorError} ERR_PROCESSOR_RESPONSE
 */
export function parseAnswer(text: string): JsonObject {
  let value: JsonValue;
  try {
    value = parseJson(text, "answer", { maxLength: MAX_PROCESSOR_BODY, maxDepth: 8 });
  } catch (cause) {
    throw malformedAnswer(messageOf(cause));
  }
  const object = asObject(value);
  if (object === undefined) throw malformedAnswer("answer is not a JSON object");
  return object;
}

/**
 * A member of an answer that is text and not empty.
 * @throws {ProcessorError} ERR_PROCESSOR_RESPONSE
 */
export function answerText(object: JsonObject, name: string): string {
  const value = object[name];
  if (typeof value !== "string" || value === "") throw malformedAnswer(`${name} is missing`);
  return value;
}

/** An answer that is not what the protocol says. */
export function malformedAnswer(problem: string): ProcessorError {
  return new ProcessorError("ERR_PROCESSOR_RESPONSE", `emulated security processor: malformed answer: ${problem}`);
}

function answerBytes(object: JsonObject, name: string): Uint8Array {
  try {
    return fromBase64(answerText(object, name));
  } catch (cause) {
    throw malformedAnswer(`${name} is not base64: ${messageOf(cause)}`);
  }
}
