import type { ContainerContext } from "./context.ts";

/** PATH of images that set none. */
export const DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Environment and arguments of a container. */
export interface CommandLine {
  readonly args: readonly string[];
  readonly env: readonly string[];
}

/** Words of a command line by where they come from. */
interface Words {
  readonly ofPod: readonly string[];
  readonly ofImage: readonly string[];
  /** The pod's words are the command; else they follow the image's entrypoint. */
  readonly podFirst: boolean;
}

/**
 * `command` replaces the image's entrypoint and drops its cmd; `args` replace cmd.
 * @param asKubernetes takes an empty list of a container for one that is not there, as kubelet does, and the entrypoint `[""]` of
 * its image, which old versions of Docker wrote, for none, as containerd does
 */
export function wordsOf({ container, image }: ContainerContext, asKubernetes: boolean): Words {
  const given = (list: readonly string[] | undefined): readonly string[] | undefined => (asKubernetes && list?.length === 0 ? undefined : list);
  const command = given(container?.command);
  const args = given(container?.args);
  const { cmd } = image.config;
  // The pause container's image is taken literally.
  const isNone = asKubernetes && container !== undefined && image.config.entrypoint.join(",") === "";
  const entrypoint = isNone ? [] : image.config.entrypoint;
  if (command !== undefined) return { ofPod: [...command, ...(args ?? [])], ofImage: [], podFirst: true };
  return { ofImage: args === undefined ? [...entrypoint, ...cmd] : entrypoint, ofPod: args ?? [], podFirst: false };
}

/** Settings' arguments that are not there yet: the pause image of some registries has none. */
export function withSettingsArgs(args: readonly string[], { containerSettings }: ContainerContext): readonly string[] {
  const all = [...args];
  for (const arg of containerSettings.args) if (!all.includes(arg)) all.push(arg);
  return all;
}

/** Text before the first `=`. */
export function nameOf(variable: string): string {
  const at = variable.indexOf("=");
  return at === -1 ? variable : variable.slice(0, at);
}
