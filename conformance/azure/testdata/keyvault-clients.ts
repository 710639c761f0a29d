import { ClientCertificateCredential, ClientSecretCredential, WorkloadIdentityCredential, type TokenCredentialOptions } from "@azure/identity";
import { CryptographyClient, KeyClient, type KeyClientOptions, type KeyVaultKey } from "@azure/keyvault-keys";
import { SecretClient, type SecretClientOptions } from "@azure/keyvault-secrets";
import type { AssertionName, ClientSecretOf, KeyvaultRun } from "./keyvault-run.ts";

/** Members of a JSON web key that are secret (RFC 7518 section 6). */
const SECRET_MEMBERS = ["d", "p", "q", "dp", "dq", "qi", "k", "t"] as const;

/** An error of a client, as far as it says something that programs and people act on. */
export interface ClientError {
  readonly name: string;
  readonly code: string | undefined;
  readonly status: number | undefined;
  readonly message: string;
}

/**
 * The genuine clients of one run. They get the options that their documentation names and no others: no pipeline policy, no transport, no switched-off verification; instance
 * discovery alone is off, because it would ask login.microsoftonline.com. What they are called for is counted, and what they give back is searched for secret parts of keys.
 */
export class Clients {
  readonly run: KeyvaultRun;
  readonly owner: ClientSecretCredential;
  readonly user: ClientSecretCredential;
  readonly pod: WorkloadIdentityCredential;
  readonly leaks: string[] = [];
  #calls = 0;

  constructor(run: KeyvaultRun) {
    this.run = run;
    this.owner = this.secretCredential(run.owner);
    this.user = this.secretCredential(run.user);
    this.pod = this.workload("own");
  }

  get calls(): number {
    return this.#calls;
  }

  /** Options of every credential. */
  get authority(): TokenCredentialOptions & { readonly disableInstanceDiscovery: boolean } {
    return { authorityHost: this.run.authorityHost, disableInstanceDiscovery: true };
  }

  secretCredential(
    { clientId, secret }: ClientSecretOf,
    tenantId: string = this.run.tenantId,
    additionallyAllowedTenants: string[] = [],
  ): ClientSecretCredential {
    return this.#counted(new ClientSecretCredential(tenantId, clientId, secret, { ...this.authority, additionallyAllowedTenants }));
  }

  certificateCredential(): ClientCertificateCredential {
    const { clientId, pem } = this.run.certified;
    return this.#counted(new ClientCertificateCredential(this.run.tenantId, clientId, { certificate: pem }, this.authority));
  }

  workload(file: AssertionName): WorkloadIdentityCredential {
    const { clientId, files } = this.run.workload;
    return this.#counted(new WorkloadIdentityCredential({ tenantId: this.run.tenantId, clientId, tokenFilePath: files[file], ...this.authority }));
  }

  keys(credential: Credential = this.owner, options: KeyClientOptions = {}): KeyClient {
    return this.#counted(new KeyClient(this.run.vault, credential, options));
  }

  hsmKeys(credential: Credential = this.owner, options: KeyClientOptions = {}): KeyClient {
    return this.#counted(new KeyClient(this.run.hsm, credential, options));
  }

  secrets(credential: Credential = this.owner, options: SecretClientOptions = {}): SecretClient {
    return this.#counted(new SecretClient(this.run.vault, credential, options));
  }

  /**
   * Given a key, or the id of one that the credential may read, the client does what the public half of an RSA key is enough for itself. For somebody who may not read the key
   * ({@link user}) everything is done by the vault.
   */
  cryptography(key: KeyVaultKey | string, credential: Credential = this.owner, options: KeyClientOptions = {}): CryptographyClient {
    return this.#counted(new CryptographyClient(key, credential, options));
  }

  /** The client itself. A call is one that the scenario makes; what the clients call of one another is theirs. */
  #counted<T extends object>(client: T): T {
    return new Proxy(client, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name, target);
        if (typeof value !== "function") return value;
        return (...parameters: unknown[]): unknown => {
          this.#calls++;
          const result: unknown = Reflect.apply(value, target, parameters);
          if (!(result instanceof Promise)) return result;
          return result.then((answer: unknown) => {
            this.#search(String(name), answer);
            return answer;
          });
        };
      },
    });
  }

  #search(method: string, answer: unknown): void {
    const key: unknown = typeof answer === "object" && answer !== null && "key" in answer ? answer.key : undefined;
    if (typeof key !== "object" || key === null) return;
    for (const member of SECRET_MEMBERS) {
      if (member in key && (key as Readonly<Record<string, unknown>>)[member] !== undefined) this.leaks.push(`${method}: ${member}`);
    }
  }
}

/** Who calls. */
export type Credential = ClientSecretCredential | ClientCertificateCredential | WorkloadIdentityCredential;

/** One thing that the clients are driven to do. @returns what a test compares: JSON */
export type Scenario = (clients: Clients) => Promise<unknown>;

/** What a call fails with. */
export async function errorOf(work: Promise<unknown>): Promise<ClientError | "no error"> {
  try {
    await work;
  } catch (error) {
    const { message, code, statusCode, name } = error as Error & { readonly code?: string; readonly statusCode?: number };
    return { name, code, status: statusCode, message: message.slice(0, 2000) };
  }
  return "no error";
}

export async function listOf<T>(pages: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of pages) items.push(item);
  return items;
}

/** Sizes of the pages. */
export async function pagesOf<T>(pages: AsyncIterable<readonly T[]>): Promise<number[]> {
  return (await listOf(pages)).map((page) => page.length);
}

/** The version of a key or secret. */
export function versionOf({ properties }: { readonly properties: { readonly version?: string } }): string {
  const { version } = properties;
  if (version === undefined || !/^[0-9a-f]{32}$/.test(version)) throw new Error(`expected a version of 32 hexadecimal digits, found ${version}`);
  return version;
}

/** The id of a key, which cryptography clients take. */
export function idOf({ id }: KeyVaultKey): string {
  if (id === undefined) throw new Error("the key has no id");
  return id;
}

export function sameBytes(found: Uint8Array | undefined, expected: Uint8Array): boolean {
  return found !== undefined && Buffer.from(found).equals(expected);
}
