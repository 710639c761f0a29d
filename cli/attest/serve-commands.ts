import type { DeclareVerb } from "../program.ts";

/** Declares `serve`. */
export function addAttestServeVerbs(verb: DeclareVerb): void {
  verb(
    "serve",
    "Serve attestation: SEV-SNP evidence in, tokens in the format of Microsoft Azure Attestation out.",
    [
      "sealpod attest serve --dev ./attest                                   # quick start on loopback; Ctrl-C ends it",
      "sealpod attest serve --dev ./attest --trust-emulator ~/.sealpod       # takes evidence of the laptop's emulator too",
      "sealpod attest serve --config attestation.json",
      "sealpod attest serve --describe-config                                # every key of the configuration",
      "curl --cacert ./attest/tls.crt https://localhost:8443/certs",
    ],
    () => import("../verbs/attest-serve.ts"),
  )
    .option("--config <file>", "configuration in JSON; environment variables SEALPOD_ATTESTATION_… stand above it")
    .option("--print-config", "print the configuration in force, with its defaults, and end")
    .option("--describe-config", "print every key of the configuration, its variable, default and meaning, and end")
    .option("--dev <dir>", "quick start: make TLS certificate, master key, operator's token and database in this directory, and use them")
    .option("--listen <host:port>", "with --dev: loopback address to listen on (default: 127.0.0.1:8443)")
    .option("--trust-emulator <dir>", "with --dev: take evidence of the emulated security processor of this state directory; it proves nothing about hardware")
    .addHelpText(
      "after",
      `
The log goes to standard error, one JSON object per line. SIGTERM and Ctrl-C stop with grace, twice at once. SIGHUP reads the TLS files again; on a terminal it ends the service.
As a daemon: node verifier/attestation/main.ts --config FILE.`,
    );
}
