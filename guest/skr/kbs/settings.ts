import { SkrError } from "../errors.ts";

/**
 * Names of the environment, which are those of CoCo where it has them: `AA_KBC_PARAMS` is read by its attestation-agent (and stands in kernel command lines as `agent.aa_kbc_params`), and
 * `--initdata-toml` is how the agent is told of init data. The port of api-server-rest is a flag there.
 */
const PARAMS = "AA_KBC_PARAMS";
const PORT = "API_SERVER_REST_PORT";
const INIT_DATA = "AA_INITDATA_TOML";

/** The port of CoCo's api-server-rest, by which containers know it (specs/attestation.md 9.5). */
const DEFAULT_PORT = "8006";
/** `cc_kbc` is the module that speaks to key brokers over the network. */
const CC_KBC = /^cc_kbc::(https:\/\/[A-Za-z0-9.-]{1,253}(?::\d{1,5})?)\/?$/;

/** What the environment says about a key broker. */
export interface KbsSettings {
  /** Where the guest's API listens, and the key broker behind it, `https://HOST[:PORT]`; undefined if no key broker is named. */
  readonly api: { readonly base: string; readonly port: number } | undefined;
  /** File with the pod's init data, TOML to the byte as it was measured. */
  readonly initDataFile: string | undefined;
}

/**
 * Reads what a sidecar is told about its key broker:
 *
 * - `AA_KBC_PARAMS=cc_kbc::https://HOST[:PORT]` has it serve the API that CoCo's guests have, for that key broker, on 127.0.0.1;
 * - `API_SERVER_REST_PORT` is another port for it than 8006;
 * - `AA_INITDATA_TOML` names a file with the init data that go with evidence, also with that of `/key/release`.
 *
 * An empty variable counts as left out.
 * @throws {SkrError} ERR_SKR_CONFIGURATION
 */
export function parseKbsSettings(env: Readonly<Record<string, string | undefined>>): KbsSettings {
  const get = (name: string): string | undefined => (env[name] === "" ? undefined : env[name]);
  const params = get(PARAMS);
  const portText = get(PORT) ?? DEFAULT_PORT;
  const port = Number(portText);
  if (!/^\d{1,5}$/.test(portText) || port < 1 || port > 65_535)
    throw new SkrError("ERR_SKR_CONFIGURATION", `${PORT} is ${JSON.stringify(portText.slice(0, 40))}; expected 1 to 65535`);
  const initDataFile = get(INIT_DATA);
  if (params === undefined) return { api: undefined, initDataFile };
  const base = CC_KBC.exec(params)?.[1];
  if (base === undefined || !URL.canParse(base)) {
    throw new SkrError("ERR_SKR_CONFIGURATION", `${PARAMS} is ${JSON.stringify(params.slice(0, 100))}; expected cc_kbc::https://HOST[:PORT]`, {
      hint: "Tokens go to the key broker, so it has to prove who it is: https, with an authority that SSL_CERT_FILE has. A path is not taken.",
    });
  }
  return { api: { base, port }, initDataFile };
}
