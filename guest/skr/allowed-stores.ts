import type { ReleaseBackend } from "./backend.ts";
import { SkrError } from "./errors.ts";

/** Sealpod's own: the genuine sidecar asks any store that its callers name. */
const VARIABLE = "SkrAllowedStores";

/** Entries that a pod may have: more are a mistake. */
const MAX_ENTRIES = 64;

/** A host name with optional port; `*.` before it stands for one label. */
const ENTRY = /^(\*\.)?(?=.{1,253}(:|$))[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:\d{1,5})?$/;

/** True for an endpoint of a store that may be asked. */
export type AllowedStores = (storeEndpoint: string) => boolean;

/**
 * Reads `SkrAllowedStores`, the key stores that this sidecar asks, whoever in the pod names others: host names with optional port, parted by commas or spaces, such as
 * `demo.vault.azure.net, *.managedhsm.azure.net`. An entry without port stands for the port of https. Absent or empty allows all: the containers of a pod are one trust domain. With it a container that was
 * taken over cannot have the pod's access token sent to a host of its choice.
 * @throws {SkrError} ERR_SKR_CONFIGURATION
 */
export function parseAllowedStores(env: Readonly<Record<string, string | undefined>>): AllowedStores {
  const text = env[VARIABLE]?.trim() ?? "";
  if (text === "") return () => true;
  const entries = text
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== "");
  const wrong = entries.find((entry) => !ENTRY.test(entry));
  if (wrong !== undefined || entries.length === 0 || entries.length > MAX_ENTRIES) {
    const found = wrong === undefined ? `${entries.length} entries` : JSON.stringify(wrong.slice(0, 100));
    throw new SkrError("ERR_SKR_CONFIGURATION", `${VARIABLE} has ${found}; expected 1 to ${MAX_ENTRIES} host names`, {
      hint: "Write NAME.vault.azure.net or *.vault.azure.net, without scheme, parted by commas.",
    });
  }
  const allowed = new Set(entries.map(withPort));
  return (storeEndpoint) => {
    const endpoint = withPort(
      storeEndpoint
        .replace(/^kbs\+https:\/\//i, "")
        .replace(/\/$/, "")
        .toLowerCase(),
    );
    return allowed.has(endpoint) || allowed.has(endpoint.replace(/^[^.:]+/, "*"));
  };
}

/** A backend that is asked for keys of allowed stores alone. */
export function restrictedTo(allowed: AllowedStores, backend: ReleaseBackend): ReleaseBackend {
  return {
    name: backend.name,
    serves: (storeEndpoint) => backend.serves(storeEndpoint),
    check(request) {
      backend.check(request);
      if (allowed(request.storeEndpoint)) return;
      throw new SkrError(
        "ERR_SKR_REQUEST",
        `invalid request format: akv_endpoint ${request.storeEndpoint} is not among the key stores that this sidecar may ask`,
        {
          hint: `They are in ${VARIABLE}, in the pod's own environment.`,
        },
      );
    },
    attest: async (ports, request) => backend.attest(ports, request),
  };
}

function withPort(endpoint: string): string {
  return /:\d+$/.test(endpoint) ? endpoint : `${endpoint}:443`;
}
