import { messageOf } from "@sealpod/core";
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@sealpod/proto";
import { STATUS, TtrpcClient, TtrpcError, statusName, type ByteStream } from "@sealpod/ttrpc";
import { SandboxError } from "./errors.ts";

/** Milliseconds for a request without a limit of its own (specs/runtime.md 4.1). */
const DEFAULT_LIMIT = 60_000;

/** Calls to the agent; failures are errors of this package. */
export class AgentClient {
  /** Resolves when the connection has ended. */
  readonly closed: Promise<void>;
  readonly #client: TtrpcClient;

  constructor(stream: ByteStream) {
    this.#client = new TtrpcClient(stream);
    this.closed = this.#client.closed;
  }

  /**
   * Calls a method.
   * @param limitMs milliseconds
   * @throws {SandboxError} ERR_SANDBOX_DENIED, ERR_SANDBOX_AGENT, ERR_SANDBOX_TIMEOUT, ERR_SANDBOX_CLOSED
   */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    limitMs: number = DEFAULT_LIMIT,
  ): Promise<MessageShape<O>> {
    return this.#call(method, request, { timeoutMs: limitMs });
  }

  /** Calls a method that ends when something happens in the guest: there is no limit but the end of the connection. */
  async poll<I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, request: MessageInitShape<I>): Promise<MessageShape<O>> {
    return this.#call(method, request, {});
  }

  close(): void {
    this.#client.close();
  }

  async #call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: { readonly timeoutMs?: number },
  ): Promise<MessageShape<O>> {
    try {
      return await this.#client.unary(method, request, options);
    } catch (cause) {
      throw sandboxError(method.input.name, cause);
    }
  }
}

/** A policy that has no answer says no as well; the agent gives that another status (specs/runtime.md 3.3). */
const NO_ANSWER = /^\w+: internal error policy check\b/;

/** @param request name of the request's message, which is the name of the policy's rule */
function sandboxError(request: string, cause: unknown): SandboxError {
  if (!(cause instanceof TtrpcError)) return new SandboxError("ERR_SANDBOX_AGENT", `${request}: ${messageOf(cause)}`, { cause });
  if (cause.code === "ERR_TTRPC_TIMEOUT") return new SandboxError("ERR_SANDBOX_TIMEOUT", `${request}: ${cause.message}`, { cause, details: { request } });
  if (cause.code === "ERR_TTRPC_CLOSED") return new SandboxError("ERR_SANDBOX_CLOSED", `${request}: ${cause.message}`, { cause, details: { request } });
  const { code } = cause.status;
  const message = unquote(cause.status.message);
  if (code === STATUS.permissionDenied || (code === STATUS.internal && NO_ANSWER.test(message))) {
    return new SandboxError("ERR_SANDBOX_DENIED", message, {
      cause,
      details: { request },
      hint: "The pod differs from the one that the policy was generated for, or the policy never allows this request.",
    });
  }
  return new SandboxError("ERR_SANDBOX_AGENT", `${request}: ${statusName(code)}: ${message}`, { cause, details: { request, status: statusName(code) } });
}

/** The agent written in Rust sends its messages as quoted literals. */
function unquote(message: string): string {
  if (!/^".*"$/s.test(message)) return message;
  const escapes: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t", "0": "\0" };
  return message.slice(1, -1).replaceAll(/\\(?:u\{([0-9a-f]{1,6})\}|(.))/gs, (_match, digits: string | undefined, letter: string) => {
    if (digits === undefined) return escapes[letter] ?? letter;
    const code = Number.parseInt(digits, 16);
    return code <= 0x10ffff ? String.fromCodePoint(code) : "\u{fffd}";
  });
}
