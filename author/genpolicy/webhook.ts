import { GenpolicyError } from "./errors.ts";
import { lastComponent } from "./paths.ts";
import type { Settings } from "./settings.ts";

/** Layouts of the workload-identity webhook: `1.5` that of v1.5.1 and before, `1.6` that since v1.6.0 (specs/attestation.md 8.3). */
export type WebhookVersion = "1.5" | "1.6";

/** What a policy sees of a layout; the volume's name stays on the host. */
interface TokenLayout {
  /** Where the volume with the token is mounted. */
  readonly directory: string;
  /** Value of `AZURE_FEDERATED_TOKEN_FILE`. Nothing in the paths means anything to a regular expression. */
  readonly file: string;
}

const LAYOUTS: Readonly<Record<WebhookVersion, TokenLayout>> = {
  "1.5": { directory: "/var/run/secrets/azure/tokens", file: "/var/run/secrets/azure/tokens/azure-identity-token" },
  "1.6": { directory: "/var/run/secrets/azure/wi", file: "/var/run/secrets/azure/wi/token/azure-identity-token" },
};

/**
 * Settings that expect the layout of one version of the webhook, whichever version they were written for. Both the mount and the
 * variable move: a policy that took either layout would let the host choose between two places.
 * @param name of the settings, for messages
 * @throws {GenpolicyError} ERR_GENPOLICY_SETTINGS if the settings do not expect a token in either place
 */
export function withWebhook(settings: Settings, version: WebhookVersion, name: string): Settings {
  const to = LAYOUTS[version];
  const known = Object.values(LAYOUTS);
  const place = (destination: string): string => (known.some(({ directory }) => directory === destination) ? to.directory : destination);
  const pattern = (text: string): string => known.reduce((changed, { file }) => changed.replaceAll(file, to.file), text);
  const { otherContainer, mountDestinations, requestDefaults } = settings;
  const mounts = otherContainer.mounts.map((mount) => {
    const { destination, source } = mount;
    // Settings of the known tools name the copy; ours leave it to the mount's place.
    const copy = (path: string): string => `$(sfprefix)${lastComponent(path)}$`;
    return { ...mount, destination: place(destination), source: source === copy(destination) ? copy(place(destination)) : source };
  });
  const patterns = requestDefaults.CreateContainerRequest.allow_env_regex.map((text) => pattern(text));
  const destinations = mountDestinations.map((destination) => place(destination));
  const moved: Settings = {
    ...settings,
    otherContainer: {
      ...otherContainer,
      mounts: mounts.filter((mount, at) => mounts.findIndex(({ destination }) => destination === mount.destination) === at),
    },
    mountDestinations: [...new Set(destinations)],
    requestDefaults: { ...requestDefaults, CreateContainerRequest: { allow_env_regex: [...new Set(patterns)] } },
  };
  const missing = [
    ...(mounts.some(({ destination }) => destination === to.directory) ? [] : ["other_container.Mounts"]),
    ...(destinations.includes(to.directory) ? [] : ["mount_destinations"]),
    ...(patterns.some((text) => text.includes(to.file)) ? [] : ["request_defaults.CreateContainerRequest.allow_env_regex"]),
  ];
  if (missing.length === 0) return moved;
  throw new GenpolicyError("ERR_GENPOLICY_SETTINGS", `${name}: no token of the workload-identity webhook, of no version: not in ${missing.join(", ")}`, {
    details: { file: name },
    hint: `Leave --webhook-version and sealpod.webhook_version out, or let the settings expect ${LAYOUTS["1.5"].file}, as those of sealpod do.`,
  });
}
