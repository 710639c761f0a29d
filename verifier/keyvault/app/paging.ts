import { decodeUtf8, encodeUtf8, fromBase64url, toBase64url } from "@sealpod/core";
import { badParameter } from "../errors.ts";
import type { JsonBody } from "../key-bundle.ts";
import { parseKeyName } from "../key-request.ts";
import type { Exchange } from "./exchange.ts";
import { canonicalPath } from "./paths.ts";

/** Largest and default page of the genuine service. */
const MAX_PAGE = 25;

/** What of a list is asked for. */
export interface Page {
  readonly size: number;
  /** Name or version that the page comes after; "" for the first page. */
  readonly after: string;
}

/**
 * The page of a list request.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function readPage(exchange: Exchange): Page {
  const maxresults = exchange.query("maxresults");
  const size = maxresults === null ? MAX_PAGE : /^\d{1,3}$/.test(maxresults) ? Number(maxresults) : 0;
  if (size < 1 || size > MAX_PAGE) throw badParameter(`maxresults must be 1 to ${MAX_PAGE}.`);
  const token = exchange.query("$skiptoken");
  try {
    return { size, after: token === null ? "" : parseKeyName(decodeUtf8(fromBase64url(token.slice(0, 512)))) };
  } catch (cause) {
    throw badParameter("$skiptoken is not one that this service gave out.", undefined, cause);
  }
}

/**
 * Answers with one page of a list. `find` is asked for one item more than fits: it says that there is a next page.
 * @param nameOf what the next page comes after
 */
export async function answerList<T>(
  exchange: Exchange,
  find: (after: string, limit: number) => Promise<readonly T[]>,
  nameOf: (item: T) => string,
  show: (item: T) => JsonBody,
): Promise<Response> {
  const page = readPage(exchange);
  const items = await find(page.after, page.size + 1);
  const shown = items.slice(0, page.size);
  const last = shown.at(-1);
  let nextLink: string | null = null;
  if (items.length > page.size && last !== undefined) {
    const path = canonicalPath(exchange.context.req.raw);
    nextLink = `${exchange.base}${path}?api-version=${exchange.apiVersion}&$skiptoken=${toBase64url(encodeUtf8(nameOf(last)))}&maxresults=${page.size}`;
  }
  return exchange.json({ value: shown.map(show), nextLink });
}
