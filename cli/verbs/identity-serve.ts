import { IDENTITY_PREFIX, IDENTITY_SETTINGS, startIdentityServer } from "@sealpod/identity";
import { makeDevelopmentFiles } from "../identity/development.ts";
import type { Verb } from "../program.ts";
import { healthLine, loopbackAddress, serveVerb, type ServeOptions } from "../serve.ts";
import { pathOf } from "../workspace.ts";

const DEV_LISTEN = "127.0.0.1:8444";

/** `sealpod identity serve`. */
export const run: Verb<ServeOptions> = serveVerb({
  command: "identity",
  name: "identity",
  schema: IDENTITY_SETTINGS,
  prefix: IDENTITY_PREFIX,
  devFlags: [["listen", "--listen", "listen"]],
  openDevelopment: async ({ listen = DEV_LISTEN }: ServeOptions, directory, context) =>
    makeDevelopmentFiles(pathOf(directory, context), loopbackAddress("--listen", listen, { example: DEV_LISTEN, beside: "its token lies" }), context),
  start: startIdentityServer,
  startedText: ({ authority, clusters }, server) => [
    `identity       ${authority}${authority === server.url ? "" : ` (listening on ${server.url})`}`,
    ...clusters.map(({ name, issuer }) => `issuer         ${issuer} (cluster ${name})`),
    healthLine(server),
  ],
});
