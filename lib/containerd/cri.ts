import { asObject, parseJson } from "@sealpod/core";
import type { Platform } from "@sealpod/oci";
import { criApi } from "@sealpod/proto";
import { ContainerdError } from "./errors.ts";
import type { GrpcSocket } from "./grpc-socket.ts";
import { STATUS } from "./grpc-status.ts";
import { INFO_LIMITS } from "./limits.ts";
import type { ContainerdTimeouts } from "./limits.ts";

/** What a registry wants to see: a name and password, or the token that `az acr login` and the like leave. */
export type RegistryCredentials = { readonly username: string; readonly password: string } | { readonly identityToken: string };

/** What CRI says about an image. */
export interface ImageStatus {
  /** Digest of the image's configuration. */
  readonly id: string;
  /** Undefined if CRI does not tell. */
  readonly platform: Platform | undefined;
}

/** Kubernetes' way to images: what kubelet would call. */
export class CriImages {
  readonly #socket: GrpcSocket;
  readonly #timeouts: ContainerdTimeouts;

  constructor(socket: GrpcSocket, timeouts: ContainerdTimeouts) {
    this.#socket = socket;
    this.#timeouts = timeouts;
  }

  /**
   * Has containerd pull an image.
   * @throws {ContainerdError} ERR_CONTAINERD_NOT_FOUND, ERR_CONTAINERD_AUTH, ERR_CONTAINERD_PULL, ERR_CONTAINERD_SERVICE and
   * those of {@link GrpcSocket.unary}
   */
  async pull(image: string, credentials: RegistryCredentials | undefined): Promise<void> {
    try {
      const auth = credentials === undefined ? {} : { auth: credentials };
      await this.#socket.unary(
        criApi.ImageService.method.pullImage,
        { image: { image }, ...auth },
        { timeout: this.#timeouts.pull, secrets: secretsOf(credentials) },
      );
    } catch (error) {
      throw pullError(error, image, credentials);
    }
  }

  /** @returns undefined if containerd does not have the image. @throws {ContainerdError} as {@link pull} */
  async status(image: string): Promise<ImageStatus | undefined> {
    try {
      const answer = await this.#socket.unary(criApi.ImageService.method.imageStatus, { image: { image }, verbose: true }, { timeout: this.#timeouts.answer });
      if (answer.image === undefined) return undefined;
      return { id: answer.image.id, platform: platformOf(answer.info["info"]) };
    } catch (error) {
      throw criMissing(error);
    }
  }
}

/** Platform in the text that containerd gives of an image: JSON with the configuration as `imageSpec`. The text is for people, so it may change. */
function platformOf(info: string | undefined): Platform | undefined {
  if (info === undefined) return undefined;
  try {
    const spec = asObject(asObject(parseJson(info, "image info", INFO_LIMITS))?.["imageSpec"]);
    const [os, architecture] = [spec?.["os"], spec?.["architecture"]];
    return typeof os === "string" && typeof architecture === "string" ? { os, architecture } : undefined;
  } catch {
    return undefined;
  }
}

/** containerd gives most failures of a pull as status 2 with the registry's words; the words are all there is to tell them apart. */
function pullError(error: unknown, image: string, credentials: RegistryCredentials | undefined): unknown {
  if (!(error instanceof ContainerdError) || error.status === undefined) return error;
  if (error.status === STATUS.unimplemented) return criMissing(error);
  const said = error.message.slice(error.message.indexOf(": ") + 2);
  const options = { cause: error, status: error.status, details: { image, status: error.status } };
  if (
    error.status === STATUS.unauthenticated ||
    error.status === STATUS.permissionDenied ||
    /pull access denied|authorization failed|unauthorized|\b40[13]\b/i.test(said)
  ) {
    return new ContainerdError("ERR_CONTAINERD_AUTH", `containerd may not pull image ${image}: ${said}`, {
      ...options,
      hint:
        credentials === undefined
          ? "Log in to the registry (docker login, az acr login), so that docker's config.json has credentials for it."
          : "The credentials in docker's config.json for this registry were refused: log in again, and check that the account may pull this repository.",
    });
  }
  if (error.status === STATUS.notFound || said.endsWith(": not found")) {
    return new ContainerdError("ERR_CONTAINERD_NOT_FOUND", `the registry has no image ${image}: ${said}`, { ...options, hint: "Check the name and the tag." });
  }
  return new ContainerdError("ERR_CONTAINERD_PULL", `containerd could not pull image ${image}: ${said}`, {
    ...options,
    hint: "containerd must reach the registry from where it runs, with the mirrors and certificates of its own configuration; see its log.",
  });
}

function criMissing(error: unknown): unknown {
  if (!(error instanceof ContainerdError) || error.status !== STATUS.unimplemented) return error;
  return new ContainerdError("ERR_CONTAINERD_SERVICE", "the socket does not offer CRI v1 (runtime.v1.ImageService)", {
    cause: error,
    hint:
      'If it is containerd 1.6 or later, its CRI plugin is off: remove "cri" from disabled_plugins in /etc/containerd/config.toml (Docker\'s packages put it there) and restart it. ' +
      "Or leave -d away to read the registry.",
  });
}

/** The texts by which credentials could come back in an error; both kinds of base64, without the padding that not all write. */
function secretsOf(credentials: RegistryCredentials | undefined): readonly string[] {
  if (credentials === undefined) return [];
  if ("identityToken" in credentials) return [credentials.identityToken];
  const { username, password } = credentials;
  const url = Buffer.from(`${username}:${password}`).toString("base64url");
  return [password, url, url.replaceAll("-", "+").replaceAll("_", "/")];
}
