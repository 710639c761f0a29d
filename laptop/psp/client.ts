import { request } from "node:http";
import { asArray, asObject, concatBytes, decodeUtf8, fromBase64, fromHex, type JsonObject, messageOf, toHex } from "@sealpod/core";
import type { UvmTrust } from "@sealpod/cose";
import { processorApi } from "@sealpod/proto";
import { MEASUREMENT_SIZE, PRODUCT_NAMES, type TrustRoot } from "@sealpod/snp";
import { type ByteStream, implement, serveTtrpc, type TtrpcService } from "@sealpod/ttrpc";
import { PspError } from "./errors.ts";
import type { GuestFile } from "./guest-info.ts";
import { LAUNCH_ID, type LaunchRequest, MAX_BODY, parseObject, type ReportResponse } from "./protocol.ts";

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

/** Whom a verifier must name to accept this laptop's evidence. */
export interface EmulatedTrust {
  readonly root: TrustRoot;
  readonly uvm: Omit<UvmTrust, "claim">;
}

/** Measuring two gigabytes takes some seconds. */
const TIMEOUT_MS = 60_000;

/**
 * Client of the emulated security processor's socket: EMULATED - NO HARDWARE PROTECTION.
 * It has the shape of the launch port of @sealpod/vmm, so machine drivers take it as it is.
 */
export class PspClient {
  readonly #socketPath: string;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  /**
   * Measures files and a command line, fixes HOST_DATA, and serves the guest's directory until the guest is closed.
   * @param input absolute paths; `hostData` has 32 bytes
   * @throws {PspError} ERR_PSP_UNAVAILABLE, ERR_PSP_RESPONSE
   */
  async launch(input: LaunchRequest): Promise<Launched> {
    const body = JSON.stringify({ files: input.files, commandLine: input.commandLine, hostData: toHex(input.hostData) });
    const answer = this.#object(await this.#call("POST", "/launch", 201, body));
    const id = text(answer, "id");
    const measurement = text(answer, "launchMeasurement");
    const guestInfoDirectory = text(answer, "guestInfoDirectory");
    if (!LAUNCH_ID.test(id) || !new RegExp(`^[0-9a-f]{${MEASUREMENT_SIZE * 2}}$`).test(measurement) || !guestInfoDirectory.startsWith("/")) {
      throw malformed("id, launchMeasurement or guestInfoDirectory do not have their form");
    }
    let closing: Promise<void> | undefined;
    const close = async (): Promise<void> => {
      closing ??= this.#call("DELETE", `/launch/${id}`, 204).then(() => undefined);
      return closing;
    };
    const service = this.#processor(id);
    const serve = (stream: ByteStream): void => void serveTtrpc(stream, [service]);
    return { id, guestInfoDirectory, launchMeasurement: fromHex(measurement), serve, close };
  }

  /**
   * A report about a guest that was launched.
   * @param reportData 1 to 64 bytes
   * @throws {PspError} ERR_PSP_UNAVAILABLE, ERR_PSP_RESPONSE
   */
  async fetchReport(id: string, reportData: Uint8Array): Promise<ReportResponse> {
    const answer = this.#object(await this.#call("POST", `/launch/${id}/report`, 200, JSON.stringify({ reportData: toHex(reportData) })));
    return { report: bytes(answer, "report"), certificates: bytes(answer, "certificates") };
  }

  /**
   * The files that a guest finds beside its report interface.
   * @throws {PspError} ERR_PSP_UNAVAILABLE, ERR_PSP_RESPONSE
   */
  async fetchFiles(id: string): Promise<readonly GuestFile[]> {
    const answer = this.#object(await this.#call("GET", `/launch/${id}/files`, 200));
    return (asArray(answer["files"]) ?? []).map((item) => {
      const file = asObject(item) ?? {};
      return { path: text(file, "path"), data: bytes(file, "data") };
    });
  }

  /**
   * PEM of VCEK, ASK and ARK.
   * @throws {PspError} ERR_PSP_UNAVAILABLE, ERR_PSP_RESPONSE
   */
  async fetchChain(): Promise<string> {
    return this.#call("GET", "/chain", 200);
  }

  /**
   * The emulator's root and endorsement issuer.
   * @throws {PspError} ERR_PSP_UNAVAILABLE, ERR_PSP_RESPONSE
   */
  async fetchTrust(): Promise<EmulatedTrust> {
    const answer = this.#object(await this.#call("GET", "/root", 200));
    const uvm = asObject(answer["uvm"]) ?? {};
    const product = PRODUCT_NAMES.find((name) => name === answer["product"]);
    const keySha256 = text(answer, "keySha256");
    const minimumSvn = uvm["minimumSvn"];
    if (product === undefined || !/^[0-9a-f]{64}$/.test(keySha256) || typeof minimumSvn !== "number")
      throw malformed("product, keySha256 or minimumSvn do not have their form");
    return {
      root: { name: text(answer, "name"), product, keySha256: fromHex(keySha256) },
      uvm: { issuer: text(uvm, "issuer"), feed: text(uvm, "feed"), minimumSvn },
    };
  }

  /** The processor as one guest reaches it: it can ask about itself alone. */
  #processor(id: string): TtrpcService {
    return implement(processorApi.SecurityProcessor, {
      getReport: async ({ reportData }) => this.fetchReport(id, reportData),
      getFiles: async () => ({ files: (await this.fetchFiles(id)).map(({ path, data }) => ({ path, data })) }),
    });
  }

  #object(body: string): JsonObject {
    return parseObject(body, "answer", (problem) => malformed(problem));
  }

  async #call(method: string, path: string, expected: number, body?: string): Promise<string> {
    const { status, text } = await this.#exchange(method, path, body);
    if (status === expected) return text;
    const { code, message } = { code: undefined, message: undefined, ...asObject(this.#object(text)["error"]) };
    throw new PspError("ERR_PSP_RESPONSE", `emulated security processor: ${method} ${path}: ${typeof message === "string" ? message : `status ${status}`}`, {
      details: { status, code: typeof code === "string" ? code : undefined },
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
          if (length > MAX_BODY) call.destroy(malformed(`the answer has more than ${MAX_BODY} bytes`));
          else chunks.push(chunk);
        });
        response.on("error", result.reject);
        response.on("end", () => {
          try {
            result.resolve({ status: response.statusCode ?? 0, text: decodeUtf8(concatBytes(...chunks), "answer") });
          } catch (cause) {
            result.reject(malformed(messageOf(cause)));
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
      if (cause instanceof PspError) throw cause;
      throw new PspError("ERR_PSP_UNAVAILABLE", `the emulated security processor does not answer on ${this.#socketPath}: ${messageOf(cause)}`, {
        cause,
        hint: "Start it with `sealpod up`.",
      });
    }
  }
}

function text(object: JsonObject, name: string): string {
  const value = object[name];
  if (typeof value !== "string" || value === "") throw malformed(`${name} is missing`);
  return value;
}

function bytes(object: JsonObject, name: string): Uint8Array {
  try {
    return fromBase64(text(object, name));
  } catch (cause) {
    throw malformed(`${name} is not base64: ${messageOf(cause)}`);
  }
}

function malformed(problem: string): PspError {
  return new PspError("ERR_PSP_RESPONSE", `emulated security processor: malformed answer: ${problem}`);
}
