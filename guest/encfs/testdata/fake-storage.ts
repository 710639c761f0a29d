import type { BlobPorts, BlobRequest, BlobResponse } from "../index.ts";

/** A storage service in memory, with one blob, that keeps to the rules the sidecar relies on. */
export class FakeStorage {
  readonly url = "https://account.blob.example/container/data.img?sv=1&sig=SECRET-SIGNATURE";
  bytes: Uint8Array;
  type: "BlockBlob" | "PageBlob" = "BlockBlob";
  version = 1;
  /** Statuses of the next answers, in place of what they would be. */
  readonly troubles: number[] = [];
  readonly requests: BlobRequest[] = [];
  readonly waits: number[] = [];
  token: string | undefined;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  ports(accessToken?: () => Promise<string>): BlobPorts {
    return {
      http: async (request) => Promise.resolve(this.#answer(request)),
      accessToken,
      wait: async (milliseconds) => {
        this.waits.push(milliseconds);
        return Promise.resolve();
      },
      random: { bytes: (length) => new Uint8Array(length).fill(255) },
    };
  }

  #answer(request: BlobRequest): BlobResponse {
    this.requests.push(request);
    const trouble = this.troubles.shift();
    if (trouble === 0) throw new Error("connection reset");
    if (trouble !== undefined) return this.#refusal(trouble, "InternalError");
    if (this.token !== undefined && request.headers["authorization"] !== `Bearer ${this.token}`) return this.#refusal(403, "AuthorizationPermissionMismatch");
    const etag = `"0x${this.version}"`;
    if (request.method === "HEAD") {
      return { status: 200, headers: { "content-length": String(this.bytes.length), etag, "x-ms-blob-type": this.type }, body: new Uint8Array() };
    }
    const [, first, last] = (/^bytes=(\d+)-(\d+)$/.exec(request.headers["range"] ?? "") ?? []).map(Number);
    if (first === undefined || last === undefined || last >= this.bytes.length) return this.#refusal(416, "InvalidRange");
    if (request.method === "PUT") {
      if (this.type !== "PageBlob" || first % 512 !== 0 || (last + 1) % 512 !== 0 || request.body?.length !== last + 1 - first) return this.#refusal(400, "InvalidPageRange");
      if (new URL(request.url).searchParams.get("comp") !== "page") return this.#refusal(400, "InvalidQueryParameterValue");
      this.bytes.set(request.body, first);
      this.version++;
      return { status: 201, headers: {}, body: new Uint8Array() };
    }
    const match = request.headers["if-match"];
    if (match !== undefined && match !== etag) return this.#refusal(412, "ConditionNotMet");
    return { status: 206, headers: { "content-range": `bytes ${first}-${last}/${this.bytes.length}` }, body: Uint8Array.from(this.bytes.subarray(first, last + 1)) };
  }

  #refusal(status: number, code: string): BlobResponse {
    return { status, headers: { "x-ms-error-code": code, "x-ms-request-id": "r-1" }, body: new TextEncoder().encode("SECRET-SIGNATURE") };
  }
}
