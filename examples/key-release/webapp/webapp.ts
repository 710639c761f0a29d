/**
 * The application of the example: it has a page that it cannot read. It asks the sidecar in its pod for the key, decrypts
 * the page, and lets nginx serve it. Without the key there is no page: it says why and ends with exit code 1.
 *
 * It runs as the container's first process, needs nothing but Node, and keeps the key and the page in the memory of the VM.
 */
import { spawn } from "node:child_process";
import { createDecipheriv } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { constants } from "node:os";
import { join } from "node:path";

/** All containers of a pod share localhost, and the sidecar listens there alone. */
const SIDECAR = process.env["SkrClientSidecar"] ?? "http://127.0.0.1:8080";
const PAGE = process.env["PAGE_FILE"] ?? "/app/page.html.enc";
const HTML_ROOT = process.env["HTML_ROOT"] ?? "/tmp/html";

/** Layout of the encrypted page: nonce, AES-256-GCM ciphertext, tag. */
const NONCE_LENGTH = 12;
const TAG_LENGTH = 16;
const KEY_LENGTH = 32;
/** Bound to the ciphertext: another file that was encrypted with the same key does not pass for the page. */
const ADDITIONAL_DATA = "sealpod example page v1";

/** Milliseconds before the first repeated question; each wait is twice as long as the one before, up to the second figure. */
const FIRST_WAIT = 100;
const LONGEST_WAIT = 5000;
/** The sidecar starts in parallel; if it is not there after about a minute, it will not come. */
const ATTEMPTS = 17;
/** Milliseconds. A release asks three services in turn, each with retries. */
const RELEASE_TIMEOUT = 300_000;

/** A failure whose message is for the person who reads the container's log. */
class Refusal extends Error {}

function setting(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === "") throw new Refusal(`the environment variable ${name} is not set`);
  return value;
}

function say(text: string): void {
  process.stdout.write(`webapp: ${text}\n`);
}

/** A refused connection has no event that says when to try again, so this asks repeatedly, with growing pauses. */
async function waitForSidecar(): Promise<void> {
  let wait = FIRST_WAIT;
  for (let attempt = 1; ; attempt++) {
    let problem: string;
    try {
      const response = await fetch(`${SIDECAR}/status`, { signal: AbortSignal.timeout(LONGEST_WAIT) });
      await response.arrayBuffer();
      if (response.status === 200) return;
      problem = `it answered ${response.status}`;
    } catch (error) {
      problem = reasonOf(error);
    }
    if (attempt === ATTEMPTS) throw new Refusal(`the sidecar at ${SIDECAR} does not answer: ${problem}`);
    if (attempt === 1) say(`waiting for the sidecar (${problem})`);
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(LONGEST_WAIT, wait * 2);
  }
}

/** Asks the sidecar for the key and returns its bytes. */
async function releaseKey(): Promise<Uint8Array> {
  const response = await fetch(`${SIDECAR}/key/release`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ maa_endpoint: setting("SkrClientMAAEndpoint"), akv_endpoint: setting("SkrClientAKVEndpoint"), kid: setting("SkrClientKID") }),
    signal: AbortSignal.timeout(RELEASE_TIMEOUT),
  });
  const text = await response.text();
  const answer = member(text);
  if (response.status !== 200) {
    const reason = answer("error");
    throw new Refusal(`the key was refused (${response.status}): ${typeof reason === "string" ? reason : text.slice(0, 1000)}`);
  }
  const jwk = answer("key");
  if (typeof jwk !== "string") throw new Refusal("the sidecar answered without a key");
  const key = member(jwk);
  const k = key("k");
  if (key("kty") !== "oct" || typeof k !== "string") throw new Refusal("the released key is not a symmetric key (kty oct)");
  const bytes = Buffer.from(k, "base64url");
  if (bytes.length !== KEY_LENGTH) throw new Refusal(`the released key has ${bytes.length} bytes, the page needs ${KEY_LENGTH}`);
  return bytes;
}

/** Decrypts the page. A wrong key and a changed file are told apart from nothing: both fail the tag. */
function decryptPage(key: Uint8Array, sealed: Uint8Array): Uint8Array {
  if (sealed.length < NONCE_LENGTH + TAG_LENGTH) throw new Refusal(`${PAGE} has ${sealed.length} bytes, too few for an encrypted page`);
  const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, NONCE_LENGTH), { authTagLength: TAG_LENGTH });
  decipher.setAAD(Buffer.from(ADDITIONAL_DATA));
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG_LENGTH));
  const page = decipher.update(sealed.subarray(NONCE_LENGTH, sealed.length - TAG_LENGTH));
  try {
    return Buffer.concat([page, decipher.final()]);
  } catch {
    throw new Refusal(`${PAGE} was not encrypted with the released key, or was changed since`);
  }
}

/** Runs nginx in the foreground, hands the container's signals on, and resolves with the exit code to end with. */
async function runNginx(): Promise<number> {
  const nginx = spawn("nginx", ["-c", "/etc/nginx/nginx.conf"], { stdio: ["ignore", "inherit", "inherit"] });
  const forward = (signal: NodeJS.Signals): boolean => nginx.kill(signal);
  process.removeAllListeners("SIGTERM").on("SIGTERM", forward);
  process.removeAllListeners("SIGINT").on("SIGINT", forward);
  return new Promise((resolve, reject) => {
    nginx.on("error", (cause) => reject(new Refusal(`nginx did not start: ${cause.message}`)));
    nginx.on("exit", (code, signal) => resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
  });
}

function member(text: string): (name: string) => unknown {
  try {
    const value: unknown = JSON.parse(text);
    return (name) => (typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined);
  } catch {
    return () => undefined;
  }
}

/** `fetch` says "fetch failed" and keeps the reason in its cause. */
function reasonOf(error: unknown): string {
  const cause = error instanceof Error ? (error.cause ?? error) : error;
  const code = (cause as { code?: unknown } | undefined)?.code;
  return typeof code === "string" ? code : cause instanceof Error ? cause.message : String(cause);
}

// The first process of a container dies of no signal that it does not handle.
for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => process.exit(128 + constants.signals[signal]));

try {
  await waitForSidecar();
  const key = await releaseKey();
  say(`key ${setting("SkrClientKID")} released`);
  const page = decryptPage(key, await readFile(PAGE));
  key.fill(0);
  await mkdir(HTML_ROOT, { recursive: true });
  await writeFile(join(HTML_ROOT, "index.html"), page);
  say("page decrypted; nginx serves it");
  process.exitCode = await runNginx();
} catch (error) {
  process.stderr.write(`webapp: ${error instanceof Refusal ? error.message : reasonOf(error)}\n`);
  process.exitCode = 1;
}
