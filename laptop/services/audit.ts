import type { Clock, Random } from "@sealpod/core";
import { explainRelease, openVaultStore } from "@sealpod/keyvault";
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
  const master = await openMasterKey(state, ports.random);
  await using store = await openVaultStore({ url: `${state}/services/keyvault.sqlite`, master, ...ports });
  return (await explainRelease(store, { requestId }))?.text;
}
