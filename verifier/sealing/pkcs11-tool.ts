import { spawn } from "node:child_process";
import { setTimeout } from "node:timers/promises";
import { concatBytes, decodeUtf8, encodeUtf8 } from "@sealpod/core";
import { SealingError } from "./errors.ts";

/** Milliseconds. A network module may take seconds to connect; a card answers in one. */
const TOOL_TIME = 20_000;
/** Times that a token is looked for, and the first pause in milliseconds between, which doubles. */
const LOOKS = 5;
const FIRST_PAUSE = 40;
/** Most bytes of an answer: a list of a token's keys. */
const MAX_OUTPUT = 1024 * 1024;
/** The variable that tells the child the PIN; arguments can be read by every user of the machine. */
const PIN_VARIABLE = "SEALPOD_PKCS11_PIN";
/** Variables of the service that modules read their configuration from. The others stay here: some are secrets. */
const PASSED_ON = ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "SOFTHSM2_CONF", "YUBIHSM_PKCS11_CONF", "OPENSC_CONF"];

/** Why a token could not be used: `details.reason` of ERR_SEALING_PKCS11. */
export type Pkcs11Reason = "tool" | "module" | "token" | "pin" | "key" | "time" | "device";

/** A token, and how it is reached. */
export interface Pkcs11Tool {
  /** Path of the module, a shared library. */
  readonly module: string;
  /** Label of the token. */
  readonly token: string;
  /** Path or name of `pkcs11-tool`. */
  readonly tool: string;
  readonly pin: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Further variables that the module needs. */
  readonly variables: readonly string[];
  /** Milliseconds; {@link TOOL_TIME} when absent. */
  readonly time?: number | undefined;
}

/** Sentences of `pkcs11-tool`, and what they mean. The first that is found holds. */
const TROUBLES: readonly { readonly pattern: RegExp; readonly reason: Pkcs11Reason; readonly message: string; readonly hint: string }[] = [
  {
    pattern: /CKR_PIN_LOCKED|CKR_PIN_EXPIRED/,
    reason: "pin",
    message: "the PIN of the token is locked or has expired",
    hint: "The token's administrator unlocks it, e.g. pkcs11-tool --init-pin with the SO PIN.",
  },
  {
    pattern: /CKR_PIN_/,
    reason: "pin",
    message: "the PIN is wrong",
    hint: "Mend the PIN before the service starts again: a token locks itself after a few wrong ones.",
  },
  {
    pattern: /Failed to load pkcs11 module|sc_dlopen failed/,
    reason: "module",
    message: "the PKCS#11 module cannot be loaded",
    hint: "Name the module's shared library, and install what it needs.",
  },
  {
    pattern: /C_Initialize/,
    reason: "module",
    message: "the PKCS#11 module does not start",
    hint: "Look after the module's configuration file, and the variable that names it.",
  },
  {
    pattern:
      /No slot with token named|No slots|C_GetTokenInfo failed|C_Login failed: rv = (?:CKR_GENERAL_ERROR|CKR_USER_PIN_NOT_INITIALIZED)|no token|CKR_TOKEN_NOT_PRESENT|CKR_TOKEN_NOT_RECOGNIZED/i,
    reason: "token",
    message: "the token is not there",
    hint: "pkcs11-tool --module M --list-token-slots shows the labels of those that are.",
  },
  {
    pattern: /not found/i,
    reason: "key",
    message: "the token has no such key",
    hint: "pkcs11-tool --module M --token-label T --login --list-objects shows those that are there.",
  },
];

/** `pkcs11-tool` said that a key does not open something. */
export class DoesNotDecrypt extends Error {}

/**
 * Runs `pkcs11-tool`, logged in to the token. A token that is not there, or cannot be read at login, is looked for again: SoftHSM does not see its own, or
 * not its PIN, for a moment while another process logs in. No PIN was wrong by then: of that a token says CKR_PIN_INCORRECT.
 * @returns what it wrote
 * @throws {SealingError} ERR_SEALING_PKCS11, with `details.reason`
 * @throws {DoesNotDecrypt}
 */
export async function runPkcs11Tool(token: Pkcs11Tool, args: readonly string[], input: Uint8Array = new Uint8Array()): Promise<Uint8Array> {
  for (let look = 1; ; look++) {
    try {
      return await runOnce(token, args, input);
    } catch (error) {
      if (look === LOOKS || !(error instanceof SealingError && error.details["reason"] === "token")) throw error;
    }
    await setTimeout(FIRST_PAUSE * 2 ** (look - 1) * (1 + Math.random()));
  }
}

async function runOnce(token: Pkcs11Tool, args: readonly string[], input: Uint8Array): Promise<Uint8Array> {
  const env: Record<string, string> = { LC_ALL: "C", [PIN_VARIABLE]: token.pin };
  for (const name of [...PASSED_ON, ...token.variables]) {
    const value = token.env[name];
    if (value !== undefined) env[name] = value;
  }
  const time = token.time ?? TOOL_TIME;
  const all = ["--module", token.module, "--token-label", token.token, "--login", "--pin", `env:${PIN_VARIABLE}`, ...args];
  // A session of its own: without a terminal nobody is asked for a PIN.
  const child = spawn(token.tool, all, { env, stdio: ["pipe", "pipe", "pipe"], detached: true });
  const output: Uint8Array[] = [];
  const errors: Uint8Array[] = [];
  let size = 0;
  const kept = (into: Uint8Array[]) => (chunk: Uint8Array) => {
    size += chunk.length;
    if (size > MAX_OUTPUT) child.kill("SIGKILL");
    else into.push(chunk);
  };
  child.stdout.on("data", kept(output));
  child.stderr.on("data", kept(errors));
  // It may end without having read: what that means, its exit code says.
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  let isLate = false;
  const timer = globalThis.setTimeout(() => {
    isLate = true;
    child.kill("SIGKILL");
  }, time);
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", resolve);
    });
    if (code === 0) return concatBytes(...output);
    if (isLate) throw trouble(token, "time", `pkcs11-tool gave no answer within ${time} ms`, "Look after the token, and the network between.");
    if (size > MAX_OUTPUT) throw trouble(token, "device", `pkcs11-tool wrote more than ${MAX_OUTPUT} bytes`, "Look after the token.");
    throw explained(token, decodeText(errors));
  } catch (cause) {
    if (cause instanceof SealingError || cause instanceof DoesNotDecrypt) throw cause;
    const code = (cause as NodeJS.ErrnoException).code ?? "";
    throw trouble(token, "tool", `${token.tool} cannot be started (${code})`, "Install it: the package is opensc on most distributions.");
  } finally {
    clearTimeout(timer);
  }
}

function explained(token: Pkcs11Tool, text: string): Error {
  const said = text
    .split("\n")
    .filter((line) => /rv|error|fail|slot/i.test(line))
    .join("; ")
    .slice(0, 300)
    .replaceAll(token.pin, "***");
  // The token takes the mechanism and the key (C_DecryptInit), and then not the bytes. It says so in many ways, but for those of a token that is out of order.
  if (/C_Decrypt(?:Update|Final)? failed/.test(text) && !/CKR_(?:DEVICE|TOKEN|SESSION|USER|HOST)/.test(text)) return new DoesNotDecrypt(said);
  const found = TROUBLES.find(({ pattern }) => pattern.test(text));
  if (found !== undefined) return trouble(token, found.reason, found.message, found.hint, said);
  return trouble(token, "device", "the token refused", "Look after the token and its log.", said);
}

function trouble({ module, token }: Pkcs11Tool, reason: Pkcs11Reason, message: string, hint: string, said?: string): SealingError {
  return new SealingError("ERR_SEALING_PKCS11", `token ${token} of ${module}: ${message}${said === undefined || said === "" ? "" : `: ${said}`}`, {
    details: { reason },
    hint,
  });
}

function decodeText(chunks: readonly Uint8Array[]): string {
  const bytes = concatBytes(...chunks);
  try {
    return decodeUtf8(bytes);
  } catch {
    return Buffer.from(bytes).toString("latin1");
  }
}

/** Reads a PIN: text, maybe with a line end. @throws {SealingError} ERR_SEALING_PKCS11, without the PIN */
export function readPin(text: string, where: string): string {
  const pin = text.replace(/\r?\n$/, "");
  if (pin.length > 0 && encodeUtf8(pin).length <= 255 && !/[\0\r\n]/.test(pin)) return pin;
  throw new SealingError("ERR_SEALING_PKCS11", `${where} has no PIN: expected one line of at most 255 bytes`, { details: { reason: "pin" } });
}
