import { readFile } from "node:fs/promises";
import { messageOf, type JsonValue } from "@sealpod/core";
import { parseCertificatesPem } from "@sealpod/pki";
import { fields, fileSetting, jsonSetting, ServiceError, textOf, type Setting } from "@sealpod/service";
import { AMD_ROOTS, PRODUCT_NAMES, trustRootOf, type ProductName, type TrustRoot } from "@sealpod/snp";

/** A root of trust as it is configured: AMD's, which the program knows, or another that is named with its certificate. */
export type RootSetting =
  | "amd"
  | {
      /** `x-sealpod-root` of tokens that rest on it. */
      readonly name: string;
      readonly product: ProductName;
      /** Path of the certificate, PEM; the last one of the file if it holds a chain. */
      readonly certificate: string;
    };

const pathSetting: Setting<string> = fileSetting("A path.", { required: true });

/** One root of a configuration. */
export const rootSetting: Setting<RootSetting> = jsonSetting("A root.", '"amd" or {"name", "product", "certificate"}', { required: true }, parseRoot);

function parseRoot(value: JsonValue, directory: string): RootSetting {
  if (value === "amd") return "amd";
  const root = fields(value, ["name", "product", "certificate"]);
  const name = textOf(root, "name");
  // A root that calls itself AMD would have tokens say so.
  if (!/^[a-z0-9][a-z0-9._-]{0,63}$/.test(name) || name === "amd")
    throw new Error('expected a name of lower-case letters, digits, ".", "_" and "-" that is not amd');
  const product = PRODUCT_NAMES.find((item) => item === root["product"]);
  if (product === undefined) throw new Error(`expected a product of ${PRODUCT_NAMES.join(", ")}`);
  return { name, product, certificate: pathSetting.parse(textOf(root, "certificate"), directory) };
}

/**
 * The roots that a configuration names.
 * @throws {ServiceError} ERR_SERVICE_CONFIG
 */
export async function openRoots(settings: readonly RootSetting[]): Promise<readonly TrustRoot[]> {
  const roots: TrustRoot[] = [];
  for (const setting of settings) {
    if (setting === "amd") roots.push(...AMD_ROOTS);
    else {
      const root = (await readCertificates(setting.certificate)).at(-1);
      if (root === undefined) throw new ServiceError("ERR_SERVICE_CONFIG", `${setting.certificate} holds no certificate`);
      roots.push(trustRootOf(root, setting.name, setting.product));
    }
  }
  return roots;
}

async function readCertificates(file: string): Promise<ReturnType<typeof parseCertificatesPem>> {
  try {
    return parseCertificatesPem(await readFile(file, "utf8"), file);
  } catch (cause) {
    throw new ServiceError("ERR_SERVICE_CONFIG", `the certificate ${file} cannot be used: ${messageOf(cause)}`, { cause });
  }
}
