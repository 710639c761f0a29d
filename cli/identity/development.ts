import { readFile } from "node:fs/promises";
import { encodeUtf8, newUuid } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import type { CliContext } from "../context.ts";
import { exists, inDevelopment, makeCertificate, makeSecrets, writeConfiguration, type DevelopmentFiles } from "../development.ts";
import { CliError } from "../errors.ts";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * Makes what an identity service needs in a directory, and keeps what is there: TLS certificate, master key, operator's token, tenant, configuration.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function makeDevelopmentFiles(
  directory: string,
  { listen, port }: { readonly listen: string; readonly port: number },
  context: CliContext,
): Promise<DevelopmentFiles> {
  return inDevelopment(directory, async (file) => {
    await makeSecrets(directory, { database: "identity.sqlite", secrets: ["master.key", "operator.token"] }, context);
    const names = [
      { kind: "dns", value: "localhost" },
      { kind: "ip", bytes: Uint8Array.of(127, 0, 0, 1) },
    ] as const;
    await makeCertificate(file("tls.crt"), file("tls.key"), { commonName: "localhost", names }, context);
    const tenant = await tenantOf(file("tenant"), context);
    const authority = `https://localhost:${port}`;
    const config = await writeConfiguration(file("config.json"), {
      authority,
      tenants: [tenant],
      listen,
      tls: { cert: "tls.crt", key: "tls.key" },
      database: "identity.sqlite",
      masterKey: { file: "master.key" },
      clusters: [{ name: "dev", issuer: `${authority}/oidc/dev/` }],
      management: { tokenFile: "operator.token" },
    });
    return {
      directory,
      config,
      lines: async () => [
        `tenant         ${tenant}`,
        `configuration  ${config}`,
        `management     with the bearer token in ${file("operator.token")}`,
        `try            sealpod identity app create web --authority ${authority} --ca ${file("tls.crt")} --bearer-token-file ${file("operator.token")}`,
      ],
    };
  });
}

async function tenantOf(path: string, { random }: CliContext): Promise<string> {
  if (!(await exists(path))) await writeFileAtomic(path, encodeUtf8(`${newUuid(random)}\n`), 0o644);
  const tenant = (await readFile(path, "utf8")).trim();
  if (!UUID.test(tenant)) throw new CliError("ERR_CLI_FILE", `${path} holds no tenant's id: expected a lower-case UUID`);
  return tenant;
}
