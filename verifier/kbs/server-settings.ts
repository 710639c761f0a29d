import { rootSetting, type RootSetting } from "@sealpod/attestation";
import { asObject, type JsonObject } from "@sealpod/core";
import { KEYVAULT_SETTINGS, type KeyvaultSettings } from "@sealpod/keyvault";
import {
  commonSettings,
  fileSetting,
  isPlainUrl,
  jsonSetting,
  listSetting,
  textSetting,
  type CommonSettings,
  type CommonValues,
  type Setting,
} from "@sealpod/service";

/** Configuration of the key broker. */
export interface KbsSettings extends CommonValues {
  readonly url: string;
  readonly database: string;
  readonly masterKey: KeyvaultSettings["masterKey"];
  readonly vault: string;
  readonly stateVault: string;
  readonly keyVault: string | undefined;
  readonly roots: readonly RootSetting[];
  readonly certificates: string | undefined;
  readonly administrators: readonly string[];
  readonly policies: { readonly resource: string | undefined; readonly attestation: string | undefined };
  readonly referenceValues: JsonObject;
}

type Schema<V> = { readonly [K in keyof V]: V[K] extends Section ? Schema<V[K]> : Setting<V[K]> };
type Section = KbsSettings["masterKey" | "policies"];

/** The keys of the configuration, each with its meaning: `--describe-config` prints them. */
export const KBS_SETTINGS: CommonSettings & Schema<Omit<KbsSettings, keyof CommonValues>> = {
  url: textSetting(
    "Public https URL of the key broker, without trailing slash: the authority that release policies name for it.",
    { required: true },
    "an https URL",
    (text) => (isPlainUrl(text) && !text.endsWith("/") ? undefined : "expected an https URL without trailing slash, query, fragment or user"),
  ),
  ...commonSettings("127.0.0.1:8446"),
  database: KEYVAULT_SETTINGS.database,
  masterKey: KEYVAULT_SETTINGS.masterKey,
  vault: textSetting("Vault of the key vault service whose secrets named kbs--… are the resources.", { required: true }, "the name of a vault"),
  stateVault: textSetting(
    "Vault of the key broker's own keys, policies and reference values. The key vault service must not serve it: who reads it signs tokens.",
    { preset: "kbs-state" },
    "the name of a vault",
  ),
  keyVault: textSetting(
    "Vault whose keys are given as default/key/NAME, where their release policy names the url above and holds. None if nothing is said.",
    {},
    "the name of a vault",
  ),
  roots: listSetting(
    "Roots whose evidence is taken: \"amd\", and others that are named with their certificate. A root that is not AMD's (an emulator's) proves nothing about hardware.",
    { preset: ["amd"] },
    rootSetting,
  ),
  certificates: textSetting(
    "Service with the face of AMD's KDS, such as `sealpod certcache serve`, for guests that do not bring their certificates. Without it they have to.",
    {},
    "an http or https URL",
    (text) => (isPlainUrl(text, ["https:", "http:"]) ? undefined : "expected an http or https URL without query, fragment or user"),
  ),
  administrators: listSetting(
    "Files with the Ed25519 public keys (PEM) of who may set resources, policies and reference values, as CoCo's kbs-client signs.",
    { preset: [] },
    fileSetting("A public key.", { required: true }),
  ),
  policies: {
    resource: fileSetting("Resource policy (Rego) until an administrator sets one.", {}),
    attestation: fileSetting("Attestation policy (Rego) until an administrator sets one.", {}),
  },
  referenceValues: jsonSetting(
    "Reference values until an administrator sets them, by name: snp_launch_measurement, snp_host_data, snp_bootloader, snp_microcode, snp_snp_svn, snp_tee_svn. Without them nothing is given out.",
    "an object of lists",
    { preset: {} },
    (value) => {
      const values = asObject(value);
      if (values === undefined) throw new Error("expected an object of lists");
      return values;
    },
  ),
};
