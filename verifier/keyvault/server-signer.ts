import { createPrivateKey } from "node:crypto";
import { readFile } from "node:fs/promises";
import { isSealpodError, messageOf, type Logger } from "@sealpod/core";
import { parseCertificatesPem } from "@sealpod/pki";
import { ServiceError } from "@sealpod/service";
import { ReplaceableSigner, type ReleaseSigner } from "./release-signature.ts";

/** Files of a release signer, in PEM. */
export interface SignerFiles {
  /** Certificate and chain, leaf first. */
  readonly cert: string;
  /** Its RSA key, not encrypted. */
  readonly key: string;
}

/** A signer and how it is brought up to date. */
export interface RenewableSigner {
  readonly signer: ReplaceableSigner;
  /** Reads the files again. What is no use is logged, and does not take the place of what is. */
  readonly renew: () => Promise<void>;
}

/**
 * The signer of releases, from files that are renewed like those of TLS.
 * @throws {ServiceError} ERR_SERVICE_CONFIG for files that cannot sign releases
 */
export async function openSigner(files: SignerFiles, logger: Logger): Promise<RenewableSigner> {
  const first = await readSigner(files);
  const signer = attempt(files, () => new ReplaceableSigner(first));
  return {
    signer,
    async renew() {
      try {
        const next = await readSigner(files);
        if (isSame(signer.chain, next.chain) && signer.privateKey.equals(next.privateKey)) return;
        attempt(files, () => signer.replace(next));
        logger.log("info", "releases are signed with a new certificate", { file: files.cert });
      } catch (error) {
        logger.log("error", "the certificate for releases cannot be renewed", { problem: messageOf(error) });
      }
    },
  };
}

async function readSigner(files: SignerFiles): Promise<ReleaseSigner> {
  const [chainText, keyText] = await Promise.all([readPem(files.cert), readPem(files.key)]);
  return attempt(files, () => ({ privateKey: createPrivateKey(keyText), chain: parseCertificatesPem(chainText, files.cert).map(({ der }) => der) }));
}

async function readPem(file: string): Promise<string> {
  try {
    return await readFile(file, "latin1");
  } catch (cause) {
    throw new ServiceError("ERR_SERVICE_CONFIG", `${file} cannot be read: ${messageOf(cause)}`, { cause });
  }
}

/** An error says which files it is about. */
function attempt<T>({ cert, key }: SignerFiles, make: () => T): T {
  try {
    return make();
  } catch (cause) {
    const hint = isSealpodError(cause) ? cause.hint : undefined;
    throw new ServiceError("ERR_SERVICE_CONFIG", `${cert} and ${key}: ${messageOf(cause)}`, { cause, ...(hint === undefined ? {} : { hint }) });
  }
}

function isSame(a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean {
  return a.length === b.length && a.every((der, at) => Buffer.from(der).equals(b[at] ?? new Uint8Array()));
}
