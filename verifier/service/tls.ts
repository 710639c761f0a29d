import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { createSecureContext } from "node:tls";
import { messageOf, type Clock, type Logger } from "@sealpod/core";
import { ServiceError } from "./errors.ts";

/** Bytes. A chain of ten certificates with large keys has some 20 KiB. */
const MAX_PEM_FILE = 256 * 1024;
/** Milliseconds. A certificate that ends sooner is said so at each load. */
const WARN_BEFORE = 14 * 24 * 60 * 60 * 1000;

/** Files of a TLS server, in PEM. */
export interface TlsFiles {
  /** The certificate and the chain below the root, leaf first. */
  readonly cert: string;
  /** The private key, not encrypted. */
  readonly key: string;
}

/** What a server takes: PEM texts that belong together. */
export interface TlsCredential {
  readonly cert: string;
  readonly key: string;
}

/**
 * Reads certificate and key, and proves that they belong together and that TLS takes them.
 * @throws {ServiceError} ERR_SERVICE_TLS
 */
export async function readTlsFiles(files: TlsFiles, clock: Clock, logger: Logger): Promise<TlsCredential> {
  const cert = await readPem(files.cert, "certificate");
  const key = await readPem(files.key, "key");
  let leaf: X509Certificate;
  try {
    leaf = new X509Certificate(cert);
  } catch (cause) {
    throw new ServiceError("ERR_SERVICE_TLS", `${files.cert} holds no PEM certificate: ${messageOf(cause)}`, { cause });
  }
  let belongs: boolean;
  try {
    belongs = leaf.checkPrivateKey(createPrivateKey(key));
  } catch (cause) {
    throw new ServiceError("ERR_SERVICE_TLS", `${files.key} holds no PEM private key without password: ${messageOf(cause)}`, { cause });
  }
  if (!belongs) {
    throw new ServiceError("ERR_SERVICE_TLS", `the key in ${files.key} is not that of the first certificate in ${files.cert}`, {
      hint: "The server's own certificate comes first in the file, then the chain that issued it.",
    });
  }
  try {
    createSecureContext({ cert, key, minVersion: "TLSv1.2" });
  } catch (cause) {
    throw new ServiceError("ERR_SERVICE_TLS", `TLS does not take ${files.cert}: ${messageOf(cause)}`, { cause });
  }
  const left = Date.parse(leaf.validTo) - clock.now();
  if (left < WARN_BEFORE) {
    logger.log("warn", left <= 0 ? "the TLS certificate has ended: clients refuse it" : "the TLS certificate ends soon", {
      file: files.cert,
      notAfter: new Date(leaf.validTo).toISOString(),
    });
  }
  return { cert, key };
}

/** Changes when one of the files does: also by a link that is set elsewhere, which is how Kubernetes renews mounted secrets. */
export async function tlsFilesMark({ cert, key }: TlsFiles): Promise<string> {
  const marks = await Promise.all(
    [cert, key].map(async (file) => {
      try {
        const { ino, size, mtimeMs, ctimeMs } = await stat(file);
        return [ino, size, mtimeMs, ctimeMs].join();
      } catch {
        return "missing";
      }
    }),
  );
  return marks.join(" ");
}

async function readPem(file: string, what: string): Promise<string> {
  let bytes: Buffer;
  try {
    const { size } = await stat(file);
    if (size > MAX_PEM_FILE) throw new ServiceError("ERR_SERVICE_TLS", `the TLS ${what} ${file} has ${size} bytes, more than ${MAX_PEM_FILE}`);
    bytes = await readFile(file);
  } catch (cause) {
    if (cause instanceof ServiceError) throw cause;
    throw new ServiceError("ERR_SERVICE_TLS", `the TLS ${what} cannot be read: ${messageOf(cause)}`, { cause });
  }
  return bytes.toString("latin1");
}
