/**
 * The protocol between programs of one host and its emulated security processor: HTTP/1.1 and JSON over a unix socket.
 * `POST /launch` LaunchRequest → 201 LaunchResponse; `DELETE /launch/<id>` → 204;
 * `POST /launch/<id>/report` ReportRequest → 200 ReportResponse; `GET /launch/<id>/files` → 200 `{files: GuestFile[]}`; `GET /chain` → PEM of VCEK, ASK, ARK;
 * `GET /root` → whom a verifier must name. Errors are `{"error":{"code","message"}}`.
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

/** A file that a guest finds beside the report interface; its bytes are base64 on the wire. */
export interface GuestFile {
  /** Relative, with `/`. */
  readonly path: string;
  readonly data: Uint8Array;
}

/** Largest body of a request or an answer: paths and a command line. */
export const MAX_PROCESSOR_BODY: number = 256 * 1024;

/** Ids of launches: 32 hex digits. */
export const LAUNCH_ID: RegExp = /^[0-9a-f]{32}$/;
