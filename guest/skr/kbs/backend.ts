import type { ReleaseBackend } from "../backend.ts";
import { SkrError } from "../errors.ts";
import { attestToKbs, resourceToJwk, type KbsOptions } from "./kbs-client.ts";
import { parseResource } from "./resource-uri.ts";

/** Scheme of the store endpoints that are a key broker's. */
const SCHEME = "kbs+https://";
const ENDPOINT = /^kbs\+(https:\/\/[A-Za-z0-9.-]{1,253}(?::\d{1,5})?)\/?$/;

/**
 * Key brokers of CoCo (Trustee, or Sealpod's vault with its face) as a backend of the sidecar: `akv_endpoint` is `kbs+https://HOST[:PORT]`, `kid` a name for `default/key/<name>`, a path
 * `REPOSITORY/TYPE/TAG`, or a `kbs:///` URI. The broker attests by itself, so `maa_endpoint` is not asked; nor is an access token, which the protocol has no place for.
 */
export function kbsBackend(options: KbsOptions = {}): ReleaseBackend {
  return {
    name: "kbs",
    serves: (storeEndpoint) => storeEndpoint.toLowerCase().startsWith(SCHEME),
    check({ storeEndpoint, kid }) {
      kbsBase(storeEndpoint);
      parseResource(kid);
    },
    async attest(ports, { storeEndpoint, kid }) {
      const resource = parseResource(kid);
      const session = await attestToKbs(ports, kbsBase(storeEndpoint), options);
      return {
        token: session.token,
        async release() {
          const bytes = await session.fetchResource(resource);
          try {
            return resourceToJwk(bytes);
          } finally {
            bytes.fill(0);
          }
        },
      };
    },
  };
}

/**
 * `https://HOST[:PORT]` of a store endpoint.
 * @throws {SkrError} ERR_SKR_REQUEST
 */
export function kbsBase(storeEndpoint: string): string {
  const base = ENDPOINT.exec(storeEndpoint)?.[1];
  if (base === undefined || !URL.canParse(base))
    throw new SkrError("ERR_SKR_REQUEST", `invalid request format: akv_endpoint is ${JSON.stringify(storeEndpoint.slice(0, 100))}`, {
      hint: "The endpoint of a key broker is kbs+https://HOST[:PORT], without a path.",
    });
  return base;
}
