import type { Command } from "commander";
import type { DeclareVerb } from "../program.ts";

/** Declares the verbs of `sealpod vault`. */
export function addVaultVerbs(verb: DeclareVerb): void {
  addServeVerb(verb);
  withConfig(
    verb(
      "check",
      "Open the database with its master key, and see whether every key and secret in it opens.",
      ["sealpod vault check --config vault.json", "sealpod vault check --config vault.json --json"],
      () => import("../verbs/vault-check.ts"),
    ),
  );
  withConfig(
    verb(
      "backup",
      "Copy the SQLite database into a file while the service runs.",
      ["sealpod vault backup --config vault.json -o vault-2026-01-31.sqlite", "pg_dump --format=custom --file=vault.dump DATABASE     # for PostgreSQL"],
      () => import("../verbs/vault-backup.ts"),
    ),
  )
    .requiredOption("-o, --output <file>", "the copy; one that is there is replaced when the new one is whole")
    .addHelpText("after", "\nThe copy is sealed like the database itself: it is worth nothing without the master key, so keep that too, elsewhere.");
  withConfig(
    verb(
      "rotate-wrapping-key",
      "Replace the key that seals the records, and seal everything again, while the service runs.",
      ["sealpod vault rotate-wrapping-key --config vault.json"],
      () => import("../verbs/vault-rotate-wrapping-key.ts"),
    ),
  ).addHelpText("after", "\nThe service does this by itself every wrappingKeys.every. One that was cut off is taken up by the next, or by the service.");
  withConfig(
    verb(
      "change-master-key",
      "Put the database under another master key; the service is restarted with that one.",
      [
        "(umask 077; openssl rand -hex 32 > new.key) && sealpod vault change-master-key --config vault.json --to-file new.key",
        "sealpod vault change-master-key --config vault.json --to-config vault-with-token.json      # into a PKCS#11 token",
      ],
      () => import("../verbs/vault-change-master-key.ts"),
    ),
  )
    .option("--to-file <file>", "file with the new key: 32 bytes, raw, in hexadecimal or base64; readable by you alone")
    .option("--to-environment <name>", "name of the variable with the new key")
    .option("--to-config <file>", "another configuration whose masterKey is the new one: for PKCS#11")
    .addHelpText(
      "after",
      `
It is one transaction: whatever happens, either the old key opens the database or the new one does. A service that runs goes on with what it has opened until it is restarted.
Keep the old key as long as you keep copies of the database, and backups of keys and secrets, from before.`,
    );
  withConfig(
    verb(
      "audit",
      "Show the audit from the database itself, newest first: who asked for what, what came of it and why.",
      ["sealpod vault audit --config vault.json", "sealpod vault audit --config vault.json --operation keys/release --name my-key --json"],
      () => import("../verbs/vault-audit.ts"),
    ),
  )
    .option("--vault <name>", "lines of this vault alone")
    .option("--name <name>", "lines about this key, secret or principal")
    .option("--operation <name>", "such as keys/release, secrets/set, wrapping-keys/rotate")
    .option("--request-id <id>", "the line of this request (x-ms-request-id)")
    .option("--limit <number>", "lines at most, up to 1000", "100")
    .option("--before <id>", "only lines before this one: for the next page");
}

function addServeVerb(verb: DeclareVerb): void {
  verb(
    "serve",
    "Serve key vaults with the wire format of Azure Key Vault and Managed HSM, which release keys to attested pods.",
    [
      "sealpod vault serve --dev ./vault                                       # quick start on loopback, with an identity service; Ctrl-C ends it",
      "sealpod vault serve --dev ./vault --attestation ./attest --trust-emulator ~/.sealpod",
      "sealpod vault serve --dev ./vault --identity ./identity                 # with that of: sealpod identity serve --dev ./identity",
      "sealpod vault serve --config vault.json",
      "sealpod vault serve --describe-config                                   # every key of the configuration",
    ],
    () => import("../verbs/vault-serve.ts"),
  )
    .option("--config <file>", "configuration in JSON; environment variables SEALPOD_KEYVAULT_… stand above it, and DATABASE_URL above its database")
    .option("--print-config", "print the configuration in force, with its defaults, and end")
    .option("--describe-config", "print every key of the configuration, its variable, default and meaning, and end")
    .option("--dev <dir>", "quick start: make TLS certificate, master key, database and an owner in this directory, and use them")
    .option("--listen <host:port>", "with --dev: loopback address to listen on (default: 127.0.0.1:8445)")
    .option("--identity <dir>", "with --dev: take tokens of the `identity serve --dev` of this directory, which runs, and start none")
    .option("--identity-listen <host:port>", "with --dev: loopback address of the identity service that is started (default: 127.0.0.1:8444)")
    .option("--issuer <url>", "with --dev: take tokens of this issuer, and start no identity service")
    .option("--tenant <id>", "with --issuer: tenant (tid) of its tokens")
    .option("--authorization <url>", "with --issuer: where clients get tokens (default: the issuer)")
    .option("--administrator <id>", "with --issuer: object id or client id of who may do everything")
    .option("--attestation <dir>", "with --dev: trust the TLS certificate of the `attest serve --dev` of this directory: release policies may name it")
    .option(
      "--trust-emulator <dir>",
      "with --dev: release keys to evidence of the emulated security processor of this state directory; it proves nothing about hardware",
    )
    .addHelpText(
      "after",
      `
The log goes to standard error, one JSON object per line. SIGTERM and Ctrl-C stop with grace, twice at once. SIGHUP reads the TLS files again; on a terminal it ends the service.
As a daemon: node verifier/keyvault/main.ts --config FILE.`,
    );
}

function withConfig(command: Command): Command {
  return command.requiredOption(
    "--config <file>",
    "the service's configuration; variables SEALPOD_KEYVAULT_… and DATABASE_URL stand above it, as for the service",
  );
}
