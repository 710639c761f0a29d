/** A request to a key broker. */
export interface KbsRequest {
  readonly method: "GET" | "POST" | "DELETE";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array<ArrayBuffer>;
}

/** Sends a request and reads the whole answer; redirects are not followed: they would carry the token away. */
export type KbsFetch = (url: string, request: KbsRequest) => Promise<{ readonly status: number; readonly text: string }>;
