import { asObject, isSealpodError, messageOf, parseJson, type JsonObject } from "@sealpod/core";
import { printable } from "@sealpod/importkey";
import { CliError } from "../errors.ts";
import type { KbsFetch, KbsRequest } from "./kbs-fetch.ts";

/** One key broker, spoken to by its administrator (specs/attestation.md 9.1). */
export interface KbsAdmin {
  /** `https://host[:port]`. */
  readonly base: string;
  /**
   * Sends a request; answers with the text of the body.
   * @param path after `/kbs/v0/`
   * @param body bytes as they are, or what is sent as JSON
   * @throws {CliError} ERR_CLI_KBS, ERR_CLI_KBS_REFUSED
   */
  call(method: KbsRequest["method"], path: string, body?: Uint8Array<ArrayBuffer> | JsonObject): Promise<string>;
}

/** What {@link kbsClient} needs. */
export interface KbsClientOptions {
  readonly base: string;
  readonly fetch: KbsFetch;
  /** Bearer token; asked once, before the first request. */
  readonly token: () => Promise<string>;
}

/** Characters of the broker's own words that are shown. */
const MAX_REASON = 1000;

/** A client for one key broker. */
export function kbsClient({ base, fetch, token }: KbsClientOptions): KbsAdmin {
  let authorization: Promise<string> | undefined;
  return {
    base,
    async call(method, path, body) {
      authorization ??= token().then((text) => `Bearer ${text}`);
      const what = `${method} ${new URL(base).host}/kbs/v0/${path}`;
      const plain = body === undefined || body instanceof Uint8Array;
      const content = plain ? body : new TextEncoder().encode(JSON.stringify(body));
      const type = content === undefined ? {} : { "content-type": plain ? "application/octet-stream" : "application/json" };
      const request = { method, headers: { authorization: await authorization, ...type }, ...(content === undefined ? {} : { body: content }) };
      const { status, text } = await fetch(`${base}/kbs/v0/${path}`, request).catch((cause: unknown) => {
        throw new CliError("ERR_CLI_KBS", `${what}: no answer: ${messageOf(cause)}`, {
          cause,
          hint: (isSealpodError(cause) ? cause.hint : undefined) ?? "Check --url, and --cert-file for a key broker with an authority of its own.",
        });
      });
      if (status >= 200 && status <= 299) return text;
      throw refusal(what, status, text);
    },
  };
}

/** The broker answers 401 to all refusals; which it is, says the last part of the type. */
function refusal(what: string, status: number, text: string): CliError {
  const { type, detail } = parseProblem(text);
  const kind = typeof type === "string" ? printable(type.slice(type.lastIndexOf("/") + 1)) : "";
  const said = printable((typeof detail === "string" ? detail : text).slice(0, MAX_REASON));
  const hint = hintOf(status, kind);
  return new CliError(
    status >= 400 && status <= 499 && status !== 429 ? "ERR_CLI_KBS_REFUSED" : "ERR_CLI_KBS",
    `${what}: the key broker answered ${status}${[kind, said]
      .filter((word) => word !== "")
      .map((word, index) => (index === 0 ? `, ${word}` : `: ${word}`))
      .join("")}`,
    { details: { status, ...(kind === "" ? {} : { kind }) }, ...(hint === undefined ? {} : { hint }) },
  );
}

function hintOf(status: number, kind: string): string | undefined {
  if (kind === "AdminAuth" || (status === 401 && kind === ""))
    return "Who may manage a key broker, its configuration says: for the laptop its owner, elsewhere --auth-private-key or --bearer-token-file.";
  if (status === 404) return "Is --url that of a key broker (Trustee, or Sealpod's), and of a version that has this?";
  return undefined;
}

function parseProblem(text: string): JsonObject {
  try {
    return asObject(parseJson(text)) ?? {};
  } catch (error) {
    if (isSealpodError(error)) return {};
    throw error;
  }
}
