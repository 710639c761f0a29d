import type { Clock, Random } from "@sealpod/core";
import { explainRelease, openKeyStore } from "@sealpod/keyvault";
import { openMasterKey } from "./start.ts";

/**
 * What the vault's audit says of a release: lines for the owner of the vault, who alone can read the state directory. The caller of a refused
 * release was told nothing of it.
 * @param requestId `x-ms-request-id` of the answer
 * @returns undefined if the audit has no such request
 */
export async function explainVaultRelease(
  state: string,
  requestId: string,
  ports: { readonly clock: Clock; readonly random: Random },
): Promise<string | undefined> {
  const store = openKeyStore({ file: `${state}/services/keyvault.sqlite`, masterKey: await openMasterKey(state, ports.random), ...ports });
  try {
    return explainRelease(store, { requestId })?.text;
  } finally {
    store.close();
  }
}
