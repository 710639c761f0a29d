import { ATTESTATION_PREFIX, ATTESTATION_SETTINGS, startAttestationServer } from "@sealpod/attestation";
import { makeDevelopmentFiles } from "../attest/development.ts";
import type { Verb } from "../program.ts";
import { healthLine, loopbackAddress, rootsText, serveVerb, type ServeOptions } from "../serve.ts";
import { pathOf } from "../workspace.ts";

interface Options extends ServeOptions {
  readonly trustEmulator?: string;
}

const DEV_LISTEN = "127.0.0.1:8443";

/** `sealpod attest serve`. */
export const run: Verb<Options> = serveVerb({
  command: "attest",
  name: "attestation",
  schema: ATTESTATION_SETTINGS,
  prefix: ATTESTATION_PREFIX,
  devFlags: [
    ["listen", "--listen", "listen"],
    ["trustEmulator", "--trust-emulator", "roots"],
  ],
  openDevelopment: async ({ listen = DEV_LISTEN, trustEmulator }: Options, directory, context) => {
    const address = loopbackAddress("--listen", listen, { example: DEV_LISTEN, beside: "its token lies" });
    const emulator = trustEmulator === undefined ? undefined : pathOf(trustEmulator, context);
    return makeDevelopmentFiles(pathOf(directory, context), { ...address, emulator }, context);
  },
  start: startAttestationServer,
  startedText: (settings, server) => [
    `attestation    ${settings.issuer}${settings.issuer === server.url ? "" : ` (listening on ${server.url})`}`,
    `trusts         ${rootsText(server.roots)}`,
    healthLine(server),
  ],
});
