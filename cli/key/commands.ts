import { Option, type Command } from "commander";
import { repeatable } from "../options.ts";
import type { DeclareVerb } from "../program.ts";

/** Declares the verbs of `sealpod key`. */
export function addKeyVerbs(verb: DeclareVerb): void {
  addMakingVerbs(verb);
  addLifecycleVerbs(verb);
  addUsingVerbs(verb);
  addAccessVerbs(verb);
  addExplainingVerbs(verb);
}

function addMakingVerbs(verb: DeclareVerb): void {
  withPolicy(
    withAttributes(
      withName(
        withVault(
          verb(
            "create",
            "Make a key in the vault; with --exportable and --policy one that is released to pods.",
            [
              "sealpod key create my-key --kty RSA-HSM --size 3072 --ops wrapKey unwrapKey encrypt decrypt --exportable --policy policy.json",
              "sealpod key policy from-pod app.yaml > policy.json && sealpod key create my-key --kty oct-HSM --size 256 --exportable --policy policy.json",
              "sealpod key create my-key --kty EC --curve P-384 --vault https://myvault.vault.azure.net --bearer-token-file token",
            ],
            () => import("../verbs/key-create.ts"),
          ),
        ),
      ),
    ),
  )
    .addOption(new Option("--kty <type>", "kind of key (default: RSA)").choices(["RSA", "RSA-HSM", "EC", "EC-HSM", "oct", "oct-HSM"]))
    .option("--size <bits>", "size of an RSA or symmetric key")
    .addOption(new Option("--curve <name>", "curve of an EC key").choices(["P-256", "P-256K", "P-384", "P-521"]))
    .option("--ops <op...>", "operations that the key is for (default: all of its kind)")
    .option("--exportable", "the key can be released; needs --policy")
    .addOption(new Option("-p, --protection <kind>", "where the key is kept").choices(["hsm", "software"]));

  withPolicy(
    withAttributes(
      withName(
        withVault(
          verb(
            "import",
            "Import a key. For one that is bound to a pod's YAML, sealpod importkey is shorter.",
            [
              "sealpod key import my-key --bytes-file encryptionKey --exportable --policy policy.json",
              "sealpod key import my-key --pem-file key.pem --ops decrypt sign",
            ],
            () => import("../verbs/key-import.ts"),
          ),
        ),
      ),
    ),
  )
    .option("--pem-file <file>", "RSA or EC private key, PEM without a password")
    .option("--bytes-file <file>", "raw bytes of a symmetric key")
    .option("--ops <op...>", "operations that the key is for (default: all of its kind)")
    .option("--exportable", "the key can be released; needs --policy")
    .addOption(new Option("-p, --protection <kind>", "where the key is kept").choices(["hsm", "software"]));
}

function addLifecycleVerbs(verb: DeclareVerb): void {
  withName(
    withVault(
      verb(
        "show",
        "Show a key: its kind, attributes and release policy, never what is secret of it.",
        [
          "sealpod key show my-key",
          "sealpod key show my-key/0123456789abcdef0123456789abcdef --json",
          "sealpod key show https://myvault.vault.azure.net/keys/my-key --bearer-token-file token",
        ],
        () => import("../verbs/key-show.ts"),
      ),
    ),
  ).option("--deleted", "show a deleted key");

  withVault(verb("list", "List the keys of the vault.", ["sealpod key list", "sealpod key list --json"], () => import("../verbs/key-list.ts")));
  withName(
    withVault(verb("list-versions", "List the versions of a key.", ["sealpod key list-versions my-key"], () => import("../verbs/key-list-versions.ts"))),
  );
  withVault(verb("list-deleted", "List the deleted keys that can be recovered.", ["sealpod key list-deleted"], () => import("../verbs/key-list-deleted.ts")));
  withName(
    withVault(verb("delete", "Delete a key; it can be recovered until it is purged.", ["sealpod key delete my-key"], () => import("../verbs/key-delete.ts"))),
  );
  withName(withVault(verb("recover", "Take a deleted key back.", ["sealpod key recover my-key"], () => import("../verbs/key-recover.ts"))));
  withName(withVault(verb("purge", "Destroy a deleted key for good.", ["sealpod key purge my-key"], () => import("../verbs/key-purge.ts"))));

  withPolicy(
    withAttributes(
      withName(
        withVault(
          verb(
            "set-attributes",
            "Change the attributes of a key, or its release policy.",
            [
              "sealpod key set-attributes my-key --enabled false",
              "sealpod key policy from-pod app.yaml > policy.json && sealpod key set-attributes my-key --policy policy.json",
            ],
            () => import("../verbs/key-set-attributes.ts"),
          ),
        ),
      ),
    ),
  ).option("--ops <op...>", "operations that the key is for");

  withName(
    withVault(
      verb(
        "backup",
        "Write a key with all its versions to a file, sealed.",
        ["sealpod key backup my-key --file my-key.backup"],
        () => import("../verbs/key-backup.ts"),
      ),
    ),
  ).requiredOption("-f, --file <file>", "file to write; must not be there yet");
  withVault(
    verb("restore", "Take a key back out of its backup.", ["sealpod key restore --file my-key.backup"], () => import("../verbs/key-restore.ts")),
  ).requiredOption("-f, --file <file>", "file that backup wrote");
  withName(
    withVault(
      verb("rotate", "Make a new version of a key, of the same kind and policy.", ["sealpod key rotate my-key"], () => import("../verbs/key-rotate.ts")),
    ),
  );
}

function addUsingVerbs(verb: DeclareVerb): void {
  withName(
    withVault(
      verb(
        "release",
        "Ask for the release of a key with an attestation token; only the TEE of the token can open what comes.",
        ["sealpod key release my-key --token token.jwt"],
        () => import("../verbs/key-release.ts"),
      ),
    ),
  )
    .requiredOption("--token <file>", "token of an attestation service; - for standard input")
    .option("--enc <algorithm>", "CKM_RSA_AES_KEY_WRAP, RSA_AES_KEY_WRAP_256 or RSA_AES_KEY_WRAP_384")
    .option("--nonce <text>", "text that comes back in the release");

  withVault(verb("random", "Random bytes of the HSM, in base64.", ["sealpod key random --count 32"], () => import("../verbs/key-random.ts"))).option(
    "--count <bytes>",
    "1 to 128",
    "32",
  );

  withCipher(
    verb(
      "encrypt",
      "Encrypt with a key of the vault.",
      [
        "sealpod key encrypt my-key --algorithm RSA-OAEP-256 --value aGVsbG8=",
        "sealpod key encrypt my-key --algorithm A256GCM --value hello --data-type plaintext",
      ],
      () => import("../verbs/key-encrypt.ts"),
    ),
    "what --value is",
  );
  withCipher(
    verb(
      "decrypt",
      "Decrypt with a key of the vault.",
      ["sealpod key decrypt my-key --algorithm RSA-OAEP-256 --value BASE64 --data-type plaintext"],
      () => import("../verbs/key-decrypt.ts"),
    ),
    "how the plaintext is printed",
  );
  withSigned(
    verb(
      "sign",
      "Sign with a key of the vault.",
      ["sealpod key sign my-key --algorithm RS256 --file message.txt", "sealpod key sign my-key --algorithm ES384 --digest BASE64"],
      () => import("../verbs/key-sign.ts"),
    ),
  );
  withSigned(
    verb(
      "verify",
      "Verify a signature with a key of the vault.",
      ["sealpod key verify my-key --algorithm RS256 --file message.txt --signature BASE64"],
      () => import("../verbs/key-verify.ts"),
    ),
  )
    .requiredOption("--signature <base64>", "signature")
    .addHelpText("after", "\nExit codes: 0 the signature is the key's; 3 it is not.");
}

function addAccessVerbs(verb: DeclareVerb): void {
  withPrincipal(
    withKeyVault(
      verb(
        "set-policy",
        "Give a principal permissions in a Sealpod vault; what is given replaces what it had of that category.",
        [
          'sealpod key set-policy --spn "$USER_ASSIGNED_CLIENT_ID" --secret-permissions get',
          "sealpod key set-policy --spn 11111111-2222-3333-4444-555555555555 --key-permissions get release",
        ],
        () => import("../verbs/key-set-policy.ts"),
      ),
    ),
  )
    .option("--key-permissions <permission...>", 'permissions for keys; "" for none')
    .option("--secret-permissions <permission...>", 'permissions for secrets; "" for none');
  withKeyVault(
    verb("list-policies", "List the access policies of a Sealpod vault.", ["sealpod key list-policies"], () => import("../verbs/key-list-policies.ts")),
  );
  withPrincipal(
    withKeyVault(
      verb(
        "delete-policy",
        "Take a principal's access policy away, in a Sealpod vault.",
        ["sealpod key delete-policy --spn 11111111-2222-3333-4444-555555555555"],
        () => import("../verbs/key-delete-policy.ts"),
      ),
    ),
  );
}

function addExplainingVerbs(verb: DeclareVerb): void {
  withVault(
    verb(
      "audit",
      "Show who asked a Sealpod vault for what, and what came of it.",
      ["sealpod key audit", "sealpod key audit --name my-key --operation keys/release", "sealpod key audit --long --all", "sealpod key audit --follow --json"],
      () => import("../verbs/key-audit.ts"),
    ),
    "both",
  )
    .option("-n, --name <name>", "only what is about this key or secret")
    .option("--operation <name>", "only this operation, e.g. keys/release")
    .option("--request-id <id>", "only this request")
    .option("--limit <count>", "the latest lines, at most so many", "100")
    .option("--long", "with request ids, whole versions and tenants")
    .option("--all", "with the reads of the audit itself")
    .option("--follow", "stay, and show what comes; Ctrl-C ends it");

  withName(
    withVault(
      verb(
        "why",
        "Why is a key (not) released? Of a token: what the vault would find. Of a request: what it found.",
        [
          "sealpod key why my-key --token token.jwt",
          "curl -s -d '{\"maa_endpoint\": …}' localhost:8080/attest/maa | sealpod key why my-key --token -",
          "sealpod key why --request-id 4d1a3c6e-0f6b-4a3e-9d55-1f6b2f0a9c11",
        ],
        () => import("../verbs/key-why.ts"),
      ),
    ),
  )
    .option("--token <file>", "token of an attestation service; - for standard input")
    .option("--request-id <id>", "x-ms-request-id of the vault's answer")
    .addHelpText("after", "\nOnly who manages the vault is told. Exit codes: 0 it would be released; 3 it would be refused.");

  withName(
    withVault(
      verb(
        "simulate",
        "Would this key be released to this pod? Which claim fails, and what is the smallest change?",
        [
          "sealpod key simulate my-key -y app.yaml",
          "sealpod key simulate my-key --token token.jwt",
          "sealpod key simulate --policy policy.json -y app.yaml --compliance-status azure-compliant-uvm      # no network",
          "sealpod key simulate --policy policy.json --claims claims.json --json",
          "sealpod key simulate -c app.yaml                        # what importkey would write",
        ],
        () => import("../verbs/key-simulate.ts"),
      ),
    ),
  )
    .option("--policy <file>", "release policy, in place of a key's")
    .option("-c, --config <file>", "what sealpod importkey would write for this YAML or JSON, in place of a key's")
    .option("--maa-endpoint <host>", "with -c: attestation authority (default: the pod's SkrClientMAAEndpoint)")
    .option("-y, --yaml-file <file>", "the pod: annotated YAML; its platform is assumed, and the output says what is")
    .option("--pod <name>", "which pod of the YAML: NAME or KIND/NAME")
    .option("--token <file>", "the pod: its attestation token; - for standard input")
    .option("--claims <file>", "the pod: its claims, JSON; - for standard input")
    .option("--authority <url>", "attestation service of the pod's token")
    .option("--compliance-status <value>", "x-ms-compliance-status of the pod's utility VM")
    .option("--launch-measurement <hex>", "x-ms-sevsnpvm-launchmeasurement of the pod's utility VM")
    .option("--debuggable", "the utility VM can be debugged by its host")
    .addOption(repeatable("--claim <name=value>", "another claim of the pod's token; repeatable"))
    .addHelpText(
      "after",
      `
Of -y the policy in the annotation is taken, as a cluster takes it, and not made again: after an edit run genpolicy first.
Nothing is verified here: a vault also checks the token's signature and times, and that it has a key to wrap for.
Exit codes: 0 it would be released; 3 it would be refused; 1 an input cannot be read.`,
    );
}

/** Declares `check` and `from-pod` of `sealpod key policy`. */
export function addKeyPolicyVerbs(verb: DeclareVerb): void {
  verb(
    "check",
    "Check a release policy: its grammar, and whether others than your pods satisfy it.",
    ["sealpod key policy check policy.json", "sealpod key policy check --print policy.json      # canonical text"],
    () => import("../verbs/key-policy-check.ts"),
  )
    .argument("<file>", "release policy, JSON")
    .option("--print", "print the policy in its canonical form");

  verb(
    "from-pod",
    "Print the release policy that binds a key to an annotated YAML.",
    [
      "sealpod key policy from-pod app.yaml > policy.json",
      "az keyvault key create --name my-key --hsm-name myhsm --kty RSA-HSM --exportable --policy policy.json",
    ],
    () => import("../verbs/key-policy-from-pod.ts"),
  )
    .argument("<file>", "annotated Kubernetes YAML, or the JSON configuration of importkey")
    .option("--pod <name>", "which pod of the YAML: NAME or KIND/NAME")
    .option("--maa-endpoint <host>", "attestation authority (default: the pod's SkrClientMAAEndpoint)")
    .option("--compliance-status <value>", "x-ms-compliance-status to require");
}

/** Declares `show` and `update` of `sealpod key rotation-policy`. */
export function addRotationPolicyVerbs(verb: DeclareVerb): void {
  withName(
    withVault(
      verb("show", "Show when a key is rotated by itself.", ["sealpod key rotation-policy show my-key"], () => import("../verbs/key-rotation-policy-show.ts")),
    ),
  );
  withName(
    withVault(
      verb(
        "update",
        "Say when a key is rotated by itself.",
        ["sealpod key rotation-policy update my-key --value policy.json"],
        () => import("../verbs/key-rotation-policy-update.ts"),
      ),
    ),
  ).requiredOption("--value <file>", "rotation policy, JSON as `show` prints it");
}

/** Declares the verbs of `sealpod key secret`. */
export function addSecretVerbs(verb: DeclareVerb): void {
  withAttributes(
    withName(
      withKeyVault(
        verb(
          "set",
          "Set a secret; a new version if it is there.",
          ["sealpod key secret set my-secret --file secret.txt", "printf %s hunter2 | sealpod key secret set my-secret --file -"],
          () => import("../verbs/key-secret-set.ts"),
        ),
      ),
    ),
  )
    .option("--value <text>", "value; seen by whoever lists this machine's processes")
    .option("-f, --file <file>", "file with the value; - for standard input")
    .addOption(new Option("-e, --encoding <encoding>", "how the bytes of the file become text").choices(["utf-8", "base64", "hex"]).default("utf-8"))
    .option("--content-type <type>", "what the value is, for its readers");
  withName(
    withKeyVault(
      verb(
        "show",
        "Show a secret without its value; with --reveal its value alone.",
        ["sealpod key secret show my-secret", "sealpod key secret show my-secret --reveal"],
        () => import("../verbs/key-secret-show.ts"),
      ),
    ),
  ).option("--reveal", "print the value");
  withKeyVault(verb("list", "List the secrets of the vault, without their values.", ["sealpod key secret list"], () => import("../verbs/key-secret-list.ts")));
  withName(
    withKeyVault(
      verb(
        "list-versions",
        "List the versions of a secret.",
        ["sealpod key secret list-versions my-secret"],
        () => import("../verbs/key-secret-list-versions.ts"),
      ),
    ),
  );
  withKeyVault(
    verb(
      "list-deleted",
      "List the deleted secrets that can be recovered.",
      ["sealpod key secret list-deleted"],
      () => import("../verbs/key-secret-list-deleted.ts"),
    ),
  );
  withName(
    withKeyVault(
      verb(
        "delete",
        "Delete a secret; it can be recovered until it is purged.",
        ["sealpod key secret delete my-secret"],
        () => import("../verbs/key-secret-delete.ts"),
      ),
    ),
  );
  withName(
    withKeyVault(verb("recover", "Take a deleted secret back.", ["sealpod key secret recover my-secret"], () => import("../verbs/key-secret-recover.ts"))),
  );
  withName(
    withKeyVault(verb("purge", "Destroy a deleted secret for good.", ["sealpod key secret purge my-secret"], () => import("../verbs/key-secret-purge.ts"))),
  );
  withName(
    withKeyVault(
      verb(
        "backup",
        "Write a secret with all its versions to a file, sealed.",
        ["sealpod key secret backup my-secret --file my-secret.backup"],
        () => import("../verbs/key-secret-backup.ts"),
      ),
    ),
  ).requiredOption("-f, --file <file>", "file to write; must not be there yet");
  withKeyVault(
    verb(
      "restore",
      "Take a secret back out of its backup.",
      ["sealpod key secret restore --file my-secret.backup"],
      () => import("../verbs/key-secret-restore.ts"),
    ),
  ).requiredOption("-f, --file <file>", "file that backup wrote");
}

/** Declares `create`, `list` and `delete` of `sealpod key role-assignment`. */
export function addRoleAssignmentVerbs(verb: DeclareVerb): void {
  withScope(
    withVault(
      verb(
        "create",
        "Give a principal a role in a vault with roles, such as a managed HSM.",
        ['sealpod key role-assignment create --role "Managed HSM Crypto Service Release User" --assignee "$CLIENT_ID" --scope /keys/my-key'],
        () => import("../verbs/key-role-assignment-create.ts"),
      ),
    ),
  )
    .requiredOption("--role <role>", "name or id of the role")
    .option("--assignee <id>", "client id of an application or managed identity")
    .option("--assignee-object-id <id>", "object id of the principal");
  withScope(
    withVault(
      verb(
        "list",
        "List the role assignments of a vault.",
        ["sealpod key role-assignment list", "sealpod key role-assignment list --scope /keys"],
        () => import("../verbs/key-role-assignment-list.ts"),
      ),
    ),
  );
  withScope(
    withVault(
      verb(
        "delete",
        "Take a role assignment away.",
        ["sealpod key role-assignment delete 4d1a3c6e-0f6b-4a3e-9d55-1f6b2f0a9c11"],
        () => import("../verbs/key-role-assignment-delete.ts"),
      ),
    ),
  ).argument("<id>", "UUID of the assignment");
}

/** Flags of `sealpod importkey`. */
export function withImportKeyFlags(command: Command): Command {
  return command
    .requiredOption("-c, --config <file>", "annotated Kubernetes YAML, or the JSON configuration of the known tool")
    .option("--kh <key>", "(-kh) key: a file of raw bytes, or hex (default: a new one of 32 bytes, written to keyfile.bin)")
    .option("--kp <file>", "(-kp) RSA or EC private key, PEM (default for RSA: a new one, written to private_key.pem)")
    .option("--out", "(-out) write keyfile.bin: the key, or what an encrypted filesystem derives of an RSA key")
    .option("-a, --azure-identity", "get the access token of this machine's identity: workload identity or the metadata service")
    .option("--kid <name>", "name of the key (default: the pod's SkrClientKID)")
    .addOption(new Option("--kty <type>", "kind of key").choices(["oct-HSM", "RSA-HSM", "EC-HSM"]))
    .option("--pod <name>", "which pod of the YAML: NAME or KIND/NAME")
    .option("--akv-endpoint <host>", "vault (default: the pod's SkrClientAKVEndpoint)")
    .option("--maa-endpoint <host>", "attestation authority (default: the pod's SkrClientMAAEndpoint)")
    .option("--compliance-status <value>", "x-ms-compliance-status to require")
    .option("--bearer-token-file <file>", "access token for the vault (default: the laptop owner's)")
    .option("--allow-any", "take a release policy that others than your pods satisfy")
    .option("--dry-run", "print the request, without the key, and the policy; contact nobody, write nothing")
    .option("--quiet-key", "do not print the key bytes");
}

/** Which of the laptop's vaults a verb speaks with where none is named. */
const LAPTOP_VAULTS = { vault: "managed HSM demo", keyvault: "key vault kv", both: "two, managed HSM demo and key vault kv" } as const;

function withVault(command: Command, preset: keyof typeof LAPTOP_VAULTS = "vault"): Command {
  return command
    .option("--vault <url>", `the vault, https (default: the laptop's ${LAPTOP_VAULTS[preset]}, while sealpod up runs)`)
    .option("--hsm <url>", "the managed HSM, https, in place of --vault")
    .option("--bearer-token-file <file>", "access token for the vault (default: the laptop owner's, or the workload identity of the environment)")
    .option("--ca <file>", "PEM of the authority whose TLS certificates are trusted, in place of the system's");
}

/** For secrets and access policies. */
function withKeyVault(command: Command): Command {
  return withVault(command, "keyvault");
}

function withName(command: Command): Command {
  return command.argument("[name]", "NAME, NAME/VERSION, or the URL in the vault").option("-n, --name <name>", "the same as the operand, as az has it");
}

function withAttributes(command: Command): Command {
  return command
    .addOption(new Option("--enabled <boolean>", "whether it can be used").choices(["true", "false"]))
    .option("--disabled", "the same as --enabled false")
    .option("--expires <time>", "UTC, e.g. 2027-01-31T12:00:00Z")
    .option("--not-before <time>", "UTC")
    .option("--tags <name=value...>", 'tags; "" takes all away');
}

function withPolicy(command: Command): Command {
  return command
    .option("--policy <file>", "release policy, JSON")
    .option("--immutable", "the release policy can never be changed again")
    .option("--allow-any", "take a release policy that others than your pods satisfy");
}

function withCipher(command: Command, dataType: string): Command {
  return withName(withVault(command))
    .requiredOption("-a, --algorithm <name>", "e.g. RSA-OAEP-256, A256GCM, A256CBCPAD")
    .requiredOption("--value <value>", "base64")
    .addOption(new Option("--data-type <type>", dataType).choices(["base64", "plaintext"]).default("base64"))
    .option("--iv <base64>", "initialization vector")
    .option("--aad <base64>", "additional authenticated data")
    .option("--tag <base64>", "authentication tag");
}

function withSigned(command: Command): Command {
  return withName(withVault(command))
    .requiredOption("-a, --algorithm <name>", "e.g. RS256, PS384, ES512")
    .option("--digest <base64>", "digest of what is signed: openssl dgst -sha256 -binary FILE | base64")
    .option("--file <file>", "what is signed: hashed here, as the algorithm says");
}

function withPrincipal(command: Command): Command {
  return command
    .option("--spn <id>", "client id of an application or managed identity")
    .option("--object-id <id>", "object id of a principal")
    .option("--tenant <id>", "its tenant (default: the laptop's, or $AZURE_TENANT_ID)");
}

function withScope(command: Command): Command {
  return command.option("--scope <scope>", "/, /keys, /keys/NAME, /secrets or /secrets/NAME", "/");
}
