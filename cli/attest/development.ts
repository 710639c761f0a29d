import { encodeUtf8 } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import { EMULATED_NOTICE } from "@sealpod/psp";
import type { CliContext } from "../context.ts";
import { inDevelopment, makeCertificate, makeSecrets, openEmulator, writeConfiguration, type DevelopmentFiles } from "../development.ts";

/** `x-ms-compliance-status` for what the emulator's own key endorses: that of `sealpod up`. */
const COMPLIANCE = "sealpod-compliant-uvm";

/** What of it is for the caller to say. */
export interface DevelopmentOptions {
  readonly listen: string;
  readonly port: number;
  /** State directory of the emulator whose evidence is taken. */
  readonly emulator: string | undefined;
}

/**
 * Makes what an attestation service needs in a directory, and keeps what is there: TLS certificate, master key, operator's token, configuration.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function makeDevelopmentFiles(directory: string, options: DevelopmentOptions, context: CliContext): Promise<DevelopmentFiles> {
  return inDevelopment(directory, async (file) => {
    await makeSecrets(directory, { database: "attestation.sqlite", secrets: ["master.key", "operator.token"] }, context);
    const names = [
      { kind: "dns", value: "localhost" },
      { kind: "ip", bytes: Uint8Array.of(127, 0, 0, 1) },
      { kind: "ip", bytes: Uint8Array.from({ length: 16 }, (_, at) => (at === 15 ? 1 : 0)) },
    ] as const;
    await makeCertificate(file("tls.crt"), file("tls.key"), { commonName: "localhost", names }, context);
    const emulator = options.emulator === undefined ? undefined : await emulatorTrust(options.emulator, file("emulator-root.pem"), context);
    const issuer = `https://localhost:${options.port}`;
    const config = await writeConfiguration(file("config.json"), {
      issuer,
      listen: options.listen,
      tls: { cert: "tls.crt", key: "tls.key" },
      database: "attestation.sqlite",
      masterKey: { file: "master.key" },
      management: { tokenFile: "operator.token" },
      roots: ["amd", ...(emulator === undefined ? [] : [emulator.root])],
      ...(emulator === undefined ? {} : { uvmTrust: { extra: [emulator.uvm] } }),
    });
    return {
      directory,
      config,
      lines: async () => [
        `configuration  ${config}`,
        `management     with the bearer token in ${file("operator.token")}`,
        ...(emulator === undefined ? [] : [`emulator       ${EMULATED_NOTICE}`]),
        `try            curl --cacert ${file("tls.crt")} ${issuer}/certs`,
      ],
    };
  });
}

async function emulatorTrust(state: string, rootFile: string, context: CliContext): Promise<{ readonly root: object; readonly uvm: object }> {
  const processor = await openEmulator(state, context);
  await writeFileAtomic(rootFile, encodeUtf8(processor.rootPem), 0o644);
  const { name, product } = processor.trustRoot;
  return { root: { name, product, certificate: "emulator-root.pem" }, uvm: { ...processor.uvmTrust, claim: COMPLIANCE } };
}
