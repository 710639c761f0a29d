import { mkdirSync, writeFileSync } from "node:fs";
import { POLICY_NAME } from "./policy.ts";
import { type HostData, requireHostData } from "./set-policy.ts";

/** Initdata as it was read from its disk (specs/runtime.md 3.6). */
export interface Initdata {
  /** The document, byte by byte as its digest was made. */
  readonly toml: Uint8Array;
  /** Of `toml`, by the algorithm that the document names. */
  readonly digest: Uint8Array;
  readonly algorithm: string;
  /** The table `[data]`. */
  readonly entries: ReadonlyMap<string, string>;
}

/** Where guest components look for what concerns them. */
export const INITDATA_DIRECTORY = "/run/confidential-containers/initdata";

/** Entry that becomes the policy. */
const POLICY_ENTRY = "policy.rego";
/** Entries that become files of their own. */
const FILE_ENTRIES: readonly string[] = ["aa.toml", "cdh.toml"];

/** Who decides whether SetPolicy brings another policy: HOST_DATA, which must be its SHA-256, or the policy in force alone. */
export type PolicyReplacement = "host-data" | "policy";

/** What initdata means for the agent. */
export interface AppliedInitdata {
  /** The policy to begin with; undefined if initdata has none, and the default one stays. */
  readonly policy: { readonly name: string; readonly text: string } | undefined;
  readonly replacement: PolicyReplacement;
}

/**
 * Takes the pod's initdata, before the agent listens: its digest must be HOST_DATA of this machine, its policy becomes the policy, and the rest is laid
 * down for guest components.
 *
 * Kata's agent leaves the comparison to attestation: a pod with the wrong initdata runs, and gets no keys. Here it does not begin to run, because what it
 * computes without keys may matter too. Only with initdata that HOST_DATA names may its policy alone decide about SetPolicy: its author wrote that, and
 * every verifier sees it. Where the host withholds initdata, HOST_DATA still names it, and no policy can be set whose SHA-256 it is not.
 *
 * @param directory default {@link INITDATA_DIRECTORY}; readable by root alone
 * @throws {AgentError} ERR_AGENT_HOST_DATA; nothing was written then
 * @throws what `hostData` throws
 */
export async function applyInitdata(initdata: Initdata, hostData: HostData, directory: string = INITDATA_DIRECTORY): Promise<AppliedInitdata> {
  const { toml, digest, algorithm, entries } = initdata;
  await requireHostData(digest, { what: `the initdata's ${algorithm} digest`, hostData });
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  writeFileSync(`${directory}/initdata.toml`, toml, { mode: 0o600 });
  for (const name of FILE_ENTRIES) {
    const text = entries.get(name);
    if (text !== undefined) writeFileSync(`${directory}/${name}`, text, { mode: 0o600 });
  }
  const text = entries.get(POLICY_ENTRY);
  if (text === undefined) return { policy: undefined, replacement: "host-data" };
  return { policy: { name: POLICY_NAME, text }, replacement: "policy" };
}
