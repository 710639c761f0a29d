import { Option, type Command } from "commander";
import type { DeclareVerb } from "../program.ts";
import { repeatable } from "../options.ts";
import { DEFAULT_PLACE } from "./default-place.ts";

/** Declares the verbs of `sealpod identity`. */
export function addIdentityVerbs(verb: DeclareVerb): void {
  const root = addServeVerb(verb).parent;
  addTokenVerb(verb);
  addAuditVerb(verb);
  if (root === null) return;
  addAppVerbs(groupOf(verb, root, "app", "Applications and managed identities of a tenant."));
  addCredentialVerbs(groupOf(verb, root, "federated-credential", "Whose tokens may stand for an application: issuer, subject, audience."));
  addSecretVerbs(groupOf(verb, root, "secret", "Client secrets of an application."));
  addKeyVerbs(groupOf(verb, root, "key", "The keys that the service signs tokens with."));
}

/** Verbs below a command of their own. They are declared on the group above, as that is what the declarer knows, and moved. */
function groupOf(declare: DeclareVerb, root: Command, name: string, description: string): DeclareVerb {
  const prefix = `sealpod identity ${name}`;
  const group = root.command(name).description(description).helpOption("-h, --help", "show help").showHelpAfterError(`(${prefix} --help lists the commands)`);
  return (usage, ...rest) => {
    const command = declare(usage, ...rest).showHelpAfterError(`(${prefix} ${usage} --help shows the flags and examples)`);
    const siblings = root.commands as Command[];
    siblings.splice(siblings.indexOf(command), 1);
    group.addCommand(command);
    return command;
  };
}

function addServeVerb(verb: DeclareVerb): Command {
  return verb(
    "serve",
    "Serve identities: OIDC issuer of clusters, and a token endpoint in the format of Microsoft Entra ID.",
    [
      "sealpod identity serve --dev ./identity                   # quick start on loopback; Ctrl-C ends it",
      "sealpod identity serve --config identity.json",
      "sealpod identity serve --describe-config                  # every key of the configuration",
    ],
    () => import("../verbs/identity-serve.ts"),
  )
    .option("--config <file>", "configuration in JSON; environment variables SEALPOD_IDENTITY_… stand above it")
    .option("--print-config", "print the configuration in force, with its defaults, and end")
    .option("--describe-config", "print every key of the configuration, its variable, default and meaning, and end")
    .option("--dev <dir>", "quick start: make TLS certificate, master key, operator's token and database in this directory, and use them")
    .option("--listen <host:port>", "with --dev: loopback address to listen on (default: 127.0.0.1:8444)")
    .addHelpText(
      "after",
      `
The log goes to standard error, one JSON object per line. SIGTERM and Ctrl-C stop with grace, twice at once. SIGHUP reads the TLS files again; on a terminal it ends the service.
As a daemon: node verifier/identity/main.ts --config FILE.`,
    );
}

function addTokenVerb(verb: DeclareVerb): void {
  withTarget(
    verb(
      "token",
      "Get an access token, and print it: with a client secret, with a federated token, or as the laptop's owner.",
      [
        "sealpod identity token --resource https://vault.azure.net                         # of the laptop's owner, while sealpod up runs",
        "sealpod identity token --service-account default/workload-identity-sa --resource https://managedhsm.azure.net   # what that pod would get",
        "sealpod identity token --authority https://login.example --tenant TENANT --client-id ID --federated-token-file token --resource https://vault.azure.net",
        "sealpod identity token --client-id ID --client-secret-file secret --resource https://vault.azure.net",
      ],
      () => import("../verbs/identity-token.ts"),
    ),
  )
    .requiredOption("--resource <uri>", "what the token is for")
    .option("--client-id <id>", "application (default: $AZURE_CLIENT_ID, or the laptop's)")
    .option("--federated-token-file <file>", "token of the application's pod or pipeline (default: $AZURE_FEDERATED_TOKEN_FILE)")
    .option("--client-secret-file <file>", "client secret, one line")
    .option("--service-account <namespace/name>", "laptop only: asks the embedded cluster for this service account's token, and exchanges it");
}

function addAuditVerb(verb: DeclareVerb): void {
  withTarget(
    verb(
      "audit",
      "Show who changed what: applications, credentials, keys. Newest first.",
      ["sealpod identity audit", "sealpod identity audit --limit 1000 --json"],
      () => import("../verbs/identity-audit.ts"),
    ),
  )
    .option("--limit <number>", "lines at most, up to 1000", "100")
    .option("--before <id>", "only lines before this one: for the next page");
}

function addAppVerbs(verb: DeclareVerb): void {
  withTarget(
    verb(
      "create",
      "Register an application, or a managed identity.",
      [
        "sealpod identity app create pipeline",
        "sealpod identity app create workload-identity --managed --resource-group demo",
        "sealpod identity app create web --client-id aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee --json",
      ],
      () => import("../verbs/identity-app-create.ts"),
    ).argument("<name>", "name of the application"),
  )
    .option("--client-id <id>", "use this client id instead of a new one (applications only)")
    .option("--managed", "make it a user-assigned managed identity: its tokens carry its resource id (xms_mirid)")
    .option("-g, --resource-group <name>", "resource group of a managed identity", DEFAULT_PLACE.resourceGroup)
    .option("--subscription <id>", "subscription of a managed identity", DEFAULT_PLACE.subscription);
  withTarget(verb("list", "List the applications and managed identities.", ["sealpod identity app list"], () => import("../verbs/identity-app-list.ts")));
  withApplication(
    withTarget(
      verb(
        "show",
        "Show an application with its credentials; secrets are never shown again.",
        ["sealpod identity app show --client-id ID", "sealpod identity app show --identity-name workload-identity     # by name, if one alone has it"],
        () => import("../verbs/identity-app-show.ts"),
      ),
    ),
  );
  withApplication(
    withTarget(
      verb(
        "delete",
        "Delete an application with all its credentials. Tokens that it has stay valid until they end.",
        ["sealpod identity app delete --client-id ID"],
        () => import("../verbs/identity-app-delete.ts"),
      ),
    ),
  );
}

function addCredentialVerbs(verb: DeclareVerb): void {
  withApplication(
    withTarget(
      verb(
        "create",
        "Let tokens of an issuer and subject stand for an application. All is compared exactly: a slash at the issuer's end counts.",
        [
          "sealpod identity federated-credential create --name web --identity-name workload-identity --subject system:serviceaccount:default:web",
          "sealpod identity federated-credential create --name github --client-id ID --issuer https://token.actions.githubusercontent.com --subject repo:org/repo:ref:refs/heads/main",
        ],
        () => import("../verbs/identity-credential-create.ts"),
      ),
    ),
  )
    .requiredOption("--name <name>", "name of the credential: 3 to 120 letters, digits, - and _")
    .option("--issuer <url>", "iss of the tokens (default: the laptop's cluster)")
    .requiredOption("--subject <text>", "sub of the tokens, such as system:serviceaccount:NAMESPACE:NAME")
    .addOption(repeatable("--audiences <text>", "aud of the tokens; repeatable (default: api://AzureADTokenExchange)"))
    .option("--description <text>", "what it is for (applications only)");
  withApplication(
    withTarget(
      verb(
        "list",
        "List the federated credentials of an application.",
        ["sealpod identity federated-credential list --identity-name workload-identity"],
        () => import("../verbs/identity-credential-list.ts"),
      ),
    ),
  );
  withApplication(
    withTarget(
      verb(
        "delete",
        "Delete a federated credential.",
        ["sealpod identity federated-credential delete --name kubernetes --client-id ID"],
        () => import("../verbs/identity-credential-delete.ts"),
      ),
    ),
  ).requiredOption("--name <name>", "name of the credential");
}

function addSecretVerbs(verb: DeclareVerb): void {
  withApplication(
    withTarget(
      verb(
        "create",
        "Make a client secret, and print it: the one time that it is seen.",
        ["sealpod identity secret create --client-id ID > secret", "sealpod identity secret create --client-id ID --end-date 2027-12-31T00:00:00Z"],
        () => import("../verbs/identity-secret-create.ts"),
      ),
    ),
  )
    .option("--display-name <text>", "what it is for")
    .option("--end-date <time>", "when it ends, within two years (default: never)");
  withApplication(
    withTarget(
      verb(
        "delete",
        "Take a client secret back.",
        ["sealpod identity secret delete --client-id ID --key-id KEY"],
        () => import("../verbs/identity-secret-delete.ts"),
      ),
    ),
  ).requiredOption("--key-id <id>", "id of the secret, from identity app show");
}

function addKeyVerbs(verb: DeclareVerb): void {
  withTarget(verb("list", "List the signing keys.", ["sealpod identity key list"], () => import("../verbs/identity-key-list.ts")));
  withTarget(
    verb(
      "rotate",
      "Make a new signing key. It is published at once, and signs when everybody has had the time to fetch it.",
      [
        "sealpod identity key rotate --purpose tenant",
        "sealpod identity key rotate --purpose cluster --now",
        "sealpod identity key rotate --purpose tenant --revoke-others          # after a theft: tokens of the old keys end now",
      ],
      () => import("../verbs/identity-key-rotate.ts"),
    ),
  )
    .addOption(new Option("--purpose <what>", "whose key").choices(["tenant", "cluster"]).makeOptionMandatory())
    .option("--cluster <name>", "name of the cluster, from identity key list", "default")
    .option("--now", "let it sign at once")
    .option("--revoke-others", "remove all other keys of its kind at once")
    .addHelpText(
      "after",
      `
The keys are the whole service's: this is for its operator. On the laptop that is its owner, who needs no flag. Elsewhere give the operator's token with --bearer-token-file: the file that
management.tokenFile of the service's configuration names, for identity serve --dev DIR it is DIR/operator.token.`,
    );
}

/** Flags that say which service is meant. */
function withTarget(command: Command): Command {
  return command
    .option("--state <dir>", "state directory of the laptop's services (default: $SEALPOD_HOME or ~/.sealpod)")
    .option("--authority <url>", "identity service (default: the laptop's, while sealpod up runs)")
    .option("--tenant <id>", "tenant (default: the laptop's, or the only one)")
    .option("--bearer-token-file <file>", "token of an operator or administrator of that service")
    .option("--ca <file>", "certificates to trust for that service, PEM");
}

/** Flags that name an application. */
function withApplication(command: Command): Command {
  return command
    .option("--client-id <id>", "client id of the application")
    .option("--identity-name <name>", "name of the application or managed identity, instead of its id")
    .option("-g, --resource-group <name>", "resource group of the managed identity, where its name is not enough")
    .option("--subscription <id>", "subscription of the managed identity, where its name is not enough");
}
