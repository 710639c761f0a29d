import type { Command } from "commander";
import { repeatable } from "../options.ts";
import type { DeclareVerb } from "../program.ts";

const UPSTREAM_HELP = `
Upstreams, asked in the order given: kds (AMD's own service, about one request in 10 s), kds=URL (another cache), azcache=HOST (Azure's cache), thim or thim=URL (this machine of
Azure), none. The cache keeps what it was given for ever, and verifies it under the roots of --trust, AMD's if nothing is said, before it is stored and each time it is read.`;

/** Declares `serve`, `fetch`, `export`, `import` and `list`. */
export function addCertcacheVerbs(verb: DeclareVerb): void {
  withUpstream(
    withStore(
      verb(
        "serve",
        "Serve the cache with the faces of AMD's service (KDS), of Azure's cache and of THIM.",
        [
          "sealpod certcache serve                                # stays; Ctrl-C ends it",
          "sealpod certcache serve --listen 0.0.0.0:8081 --upstream azcache=global.acccache.azure.net --upstream kds",
          "sealpod certcache serve --dir /var/lib/certcache --upstream none      # offline: what was imported and nothing else",
          "curl http://127.0.0.1:8081/vcek/v1/Milan/cert_chain",
        ],
        () => import("../verbs/certcache-serve.ts"),
      ),
    ),
  )
    .option("--listen <host:port>", "address to serve on, plain HTTP unless --tls-cert is given", "127.0.0.1:8081")
    .option("--tls-cert <file>", "certificate and chain of the server, PEM")
    .option("--tls-key <file>", "private key of the server, PEM")
    .option("--operations <host:port>", "serve /healthz, /readyz and /metrics here (default: among the other paths if --listen is on loopback, else nowhere)")
    .option("--thim-chip-id <hex>", "chip that the face of THIM answers for (default: the only one that the cache knows)")
    .option("--thim-tcb <hex>", "its TCB as THIM's tcbm, such as DB18000000000004")
    .addHelpText("after", UPSTREAM_HELP);

  withUpstream(
    withStore(
      verb(
        "fetch",
        "Fill the cache: the certificates for reports, or for a chip, or the authorities and revocation lists of a product.",
        [
          "sealpod certcache fetch report.bin other-report.bin",
          "sealpod certcache fetch --product Milan --chip-id 2f64…8b01 --tcb DB18000000000004",
          "sealpod certcache fetch --product Milan               # ASK, ASVK, ARK and their revocation lists",
        ],
        () => import("../verbs/certcache-fetch.ts"),
      ),
    ),
  )
    .argument("[reports...]", "attestation reports: raw, hex, base64, or a request or answer that holds one")
    .option("--chip-id <hex>", "CHIP_ID: 128 hex digits, 16 from Turin on")
    .option("--tcb <hex>", "REPORTED_TCB as a number, as THIM's tcbm has it, such as DB18000000000004")
    .option("--product <name>", "Milan, Genoa or Turin")
    .option("--wait <seconds>", "longest wait for a service that throttles", "60")
    .addHelpText("after", UPSTREAM_HELP);

  withStore(
    verb(
      "export",
      "Write all of the cache that verifies into one file, to carry it to where there is no network.",
      ["sealpod certcache export -o bundle.json"],
      () => import("../verbs/certcache-export.ts"),
    ),
  ).requiredOption("-o, --output <file>", "bundle to write; the same certificates give the same bytes");

  withStore(
    verb(
      "import",
      "Take a bundle, or a directory in the layout of Trustee's offline store, into the cache: all of it or nothing.",
      ["sealpod certcache import bundle.json", "sealpod certcache import /opt/trustee/kds-store --chain milan_cert_chain.pem"],
      () => import("../verbs/certcache-import.ts"),
    ),
  )
    .argument("<source>", "bundle, or directory")
    .addOption(repeatable("--chain <file>", "PEM of ASK and ARK, for directories that do not hold them; repeatable"));

  withStore(
    verb(
      "list",
      "Show what the cache holds, and whether it verifies.",
      ["sealpod certcache list", "sealpod certcache list --json"],
      () => import("../verbs/certcache-list.ts"),
    ),
  );
}

function withStore(command: Command): Command {
  return command
    .option("--dir <dir>", "directory of the cache (default: certcache in $SEALPOD_HOME or ~/.sealpod)")
    .option("--max-entries <number>", "most certificates that are kept; nothing is removed to make room", "65536")
    .addOption(
      repeatable(
        "--trust <root>",
        "whose roots count: amd, or emulator=FILE with the EMULATED root; repeatable, and none but those named count (default: amd)",
      ),
    );
}

function withUpstream(command: Command): Command {
  return command
    .addOption(repeatable("--upstream <name>", "where to ask for what is not there (default: kds); repeatable"))
    .option("--spacing <seconds>", "from one request to an upstream to the next (default: 10 for AMD's own service, 0 for others)");
}
