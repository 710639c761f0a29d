import { ServerResponse, type IncomingMessage } from "node:http";
import { getRequestListener, RequestError } from "@hono/node-server";
import { isSealpodError, messageOf, type Clock, type Logger, type Random } from "@sealpod/core";
import { Budget } from "./budget.ts";
import { TrustedProxies } from "./client.ts";
import { readWebBody } from "./context.ts";
import { ServiceError } from "./errors.ts";
import { clientRequestIdOf, Exchange, RequestIds } from "./exchange.ts";
import { completeLimits, type ServiceLimits } from "./limits.ts";
import { Metrics, type Counter, type Gauge, type Histogram } from "./metrics.ts";
import { operate, type OperationsAnswer, Readiness, type ReadyCheck } from "./operations.ts";
import { RateLimiter } from "./rate-limiter.ts";
import { RouteNames, type ServedApp } from "./route-names.ts";

export type { ReadyCheck } from "./operations.ts";

/** Requests with bodies of the largest size that may be on their way in at once: what clients make us hold before they are heard. A client may have a quarter. */
const BODIES_RECEIVED = 64;
/** Bytes per second that a body must come with. */
const MIN_BODY_RATE = 1024;
/** Bytes of answers that wait for clients to read them. One who holds a quarter is answered 503; beyond the whole, who holds most loses its connections. */
const ANSWERS_UNREAD = 128 * 1024 * 1024;
/** Bytes. A refused body up to this size is read and dropped, so that the connection can go on. */
const SMALL_BODY = 64 * 1024;
/** Milliseconds for which a client may go on sending a body that was refused, to see the answer rather than a reset connection. */
const LINGER = 1000;
/** Milliseconds for the answer that a request's time is over to get out. */
const LAST_WORDS = 5000;
/** Seconds after which a busy service may be asked again. */
const RETRY_AFTER = 1;
/** Characters of a stack in the log. */
const MAX_STACK = 4000;
/** What nginx logs for an answer that nobody waited for. */
const CLIENT_GONE = 499;

const METHODS: ReadonlySet<string> = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);
const EMPTY: Buffer = Buffer.alloc(0);

/** Where an {@link Exchange} waits for the adapter to come back with the request made of it. */
const EXCHANGE = Symbol("exchange");

/** Why a service answers in place of its application. */
export interface Refusal {
  readonly status: 400 | 408 | 413 | 429 | 500 | 503;
  /** `error.code` of Azure's services. */
  readonly code: "BadRequest" | "RequestTimeout" | "RequestEntityTooLarge" | "TooManyRequests" | "InternalServerError" | "ServiceUnavailable";
  readonly message: string;
  readonly requestId: string;
}

/** Options of {@link createService}. */
export interface ServiceOptions {
  /** In the log and in `build_info`, e.g. `attestation`. */
  readonly name: string;
  readonly version: string;
  /** Answers what the service lets through. Its errors are its own business (`onError`); what escapes becomes 500 with the request's id. */
  readonly app: ServedApp;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly random: Random;
  readonly limits?: Partial<ServiceLimits>;
  /** What must hold for `/readyz` to say so, by name; a check that throws, or takes longer than five seconds, does not hold. */
  readonly ready?: Readonly<Record<string, ReadyCheck>>;
  /** Registry to count in, for metrics of the application's own; a new one if absent. */
  readonly metrics?: Metrics;
  /**
   * Where `/healthz`, `/readyz` and `/metrics` are: on an address of their own (`separate`, the default, see {@link ServeOptions.operations}) or among
   * the application's paths. Metrics tell strangers how much a service is used, so the latter is for loopback and closed networks.
   */
  readonly operations?: "separate" | "main";
  /** JSON of an answer in place of the application; `{error: {code, message}}` if absent, as Azure's services have it. */
  readonly refusal?: (refusal: Refusal) => object;
  /**
   * Lets `@hono/node-server` put its light `Request` and `Response` in place of the global ones, which saves some 20 microseconds per request. For processes that
   * are this service and nothing else. Default false.
   */
  readonly replaceGlobals?: boolean;
}

/** An application with everything around it, for {@link serve} or a listener of the caller's. */
export interface Service {
  readonly name: string;
  readonly version: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly limits: ServiceLimits;
  /** Answers a web request: with ids, log, metrics and limits, and a copy more than {@link listener}. @param client address of the other end, for the rate limit */
  fetch(request: Request, client?: string): Promise<Response>;
  /** Answers a request of `node:http`. @param awaitsContinue the client waits for 100 before it sends the body (event `checkContinue`) */
  readonly listener: (incoming: IncomingMessage, outgoing: ServerResponse, awaitsContinue?: boolean) => void;
  /** Answers `/healthz`, `/readyz` or `/metrics`; undefined for other paths. */
  operations(path: string): Promise<OperationsAnswer | undefined>;
  /** Whether an address is that of a trusted proxy. */
  isProxy(address: string | undefined): boolean;
  /** From now on `/readyz` says no, so that nobody sends more, while all goes on as before. */
  retire(): void;
  /** From now on each answer ends its connection. */
  drain(): void;
  /** Ends what is still in work: signals are aborted, connections closed. */
  abort(reason: string): void;
}

/**
 * Puts what every service needs around an application: request ids, access log, metrics, limits, health.
 * @throws {ServiceError} ERR_SERVICE_ARGUMENT for limits that are none
 */
export function createService(options: ServiceOptions): Service {
  return new Chassis(options);
}

/** A response that knows how many bytes of body went into it, and how many of them wait; {@link serve} has the server make these. */
export class CountedResponse extends ServerResponse {
  bytesOut = 0;
  /** Told how many bytes more wait to be sent; fewer if negative. What the end brings waits until the response is closed. */
  onUnsent: ((bytes: number) => void) | undefined = undefined;

  override write(chunk: unknown, encoding?: unknown, done?: unknown): boolean {
    const length = lengthOf(chunk);
    const [charset, then] = typeof encoding === "function" ? [undefined, encoding] : [encoding, done];
    const isRoom = super.write(chunk as string, charset as BufferEncoding, (error) => {
      this.onUnsent?.(-length);
      (then as ((error?: Error | null) => void) | undefined)?.(error);
    });
    this.#hold(length);
    return isRoom;
  }

  override end(chunk?: unknown, encoding?: unknown, done?: unknown): this {
    super.end(chunk as string, encoding as BufferEncoding, done as () => void);
    this.#hold(lengthOf(chunk));
    return this;
  }

  #hold(length: number): void {
    this.bytesOut += length;
    if (length > 0) this.onUnsent?.(length);
  }
}

function lengthOf(chunk: unknown): number {
  return typeof chunk === "string" ? Buffer.byteLength(chunk) : chunk instanceof Uint8Array ? chunk.length : 0;
}

/** A request of `node:http` in work. */
interface Active {
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
  readonly exchange: Exchange;
  readonly awaitsContinue: boolean;
  /** Who is to answer; nobody any more when the service has done so itself. */
  phase: "body" | "operations" | "handler" | "answered";
  timer: NodeJS.Timeout | undefined;
  /** Reads no more of the body. */
  leaveBody: (() => void) | undefined;
}

type Incoming = IncomingMessage & { rawBody?: Buffer; [EXCHANGE]?: Exchange };

class Chassis implements Service {
  readonly name: string;
  readonly version: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly limits: ServiceLimits;
  readonly #app: ServedApp;
  readonly #ids: RequestIds;
  readonly #proxies: TrustedProxies;
  readonly #rate: RateLimiter | undefined;
  readonly #routes: RouteNames;
  readonly #readiness: Readiness;
  readonly #operationsOnMain: boolean;
  readonly #refusalBody: (refusal: Refusal) => object;
  readonly #adapter: (incoming: IncomingMessage, outgoing: ServerResponse) => Promise<void>;
  readonly #requests: Counter;
  readonly #durations: Histogram;
  readonly #inFlight: Gauge;
  readonly #rejected: Counter;
  readonly #active = new Set<Active>();
  /** Handlers at work. */
  #busy = 0;
  /** Of bodies that are not whole yet. */
  readonly #bodies: Budget<Active>;
  /** Of answers that wait to be sent. */
  readonly #answers = new Budget<Active>(ANSWERS_UNREAD);
  #isDraining = false;

  constructor(options: ServiceOptions) {
    this.name = options.name;
    this.version = options.version;
    this.clock = options.clock;
    this.logger = options.logger;
    this.limits = completeLimits(options.limits);
    this.metrics = options.metrics ?? new Metrics();
    this.#bodies = new Budget(BODIES_RECEIVED * this.limits.maxBody);
    this.#app = options.app;
    this.#ids = new RequestIds(options.random);
    this.#proxies = new TrustedProxies(this.limits.trustedProxies);
    this.#rate = this.limits.rate === "off" ? undefined : new RateLimiter(this.limits.rate, () => performance.now());
    this.#routes = new RouteNames(options.app);
    this.#readiness = new Readiness(options.ready ?? {}, options.logger, options.operations !== "main");
    this.#operationsOnMain = options.operations === "main";
    this.#refusalBody = options.refusal ?? (({ code, message }) => ({ error: { code, message } }));
    const { metrics } = this;
    metrics
      .gauge("build_info", "1, with what runs here as labels.", { labels: ["service", "version", "node"] })
      .with(this.name, this.version, process.versions.node)
      .set(1);
    this.#requests = metrics.counter("http_requests_total", "Requests answered, by route pattern; status 499 means that the client did not wait.", {
      labels: ["route", "method", "status"],
    });
    this.#durations = metrics.histogram("http_request_duration_seconds", "Seconds from a request's headers to the end of its answer.", {
      labels: ["route", "method"],
    });
    this.#inFlight = metrics.gauge("http_requests_in_flight", "Requests whose answer is not complete.");
    this.#rejected = metrics.counter("http_requests_rejected_total", "Requests that a limit of the service refused.", { labels: ["reason"] });
    this.#adapter = getRequestListener((request, env) => this.#fromAdapter(request, (env as { incoming: Incoming }).incoming), {
      overrideGlobalObjects: options.replaceGlobals ?? false,
      hostname: "localhost",
      errorHandler: (error) => this.#escaped(error),
    }) as (incoming: IncomingMessage, outgoing: ServerResponse) => Promise<void>;
  }

  readonly listener = (incoming: IncomingMessage, outgoing: ServerResponse, awaitsContinue = false): void => {
    const { headers } = incoming;
    const { socket } = incoming;
    const client = this.#proxies.clientOf(socket.remoteAddress, headers["x-forwarded-for"] as string | undefined);
    const exchange = this.#begin(client, headers["x-ms-client-request-id"] as string | undefined, incoming.method ?? "");
    const active: Active = { incoming, outgoing, exchange, awaitsContinue, phase: "body", timer: undefined, leaveBody: undefined };
    this.#active.add(active);
    this.#inFlight.add(1);
    if (this.#isDraining) outgoing.shouldKeepAlive = false;
    outgoing.setHeader("x-ms-request-id", exchange.id);
    if (exchange.clientRequestId !== undefined) outgoing.setHeader("x-ms-client-request-id", exchange.clientRequestId);
    outgoing.on("close", () => this.#closed(active));
    // Nothing moves on the connection: a handler may take its time, a client that does not read may not. Without this listener node would end both.
    outgoing.on("timeout", () => {
      if (socket.writableLength > 0) socket.destroy();
    });
    // What is wrong with a connection that breaks off is in "close" too.
    incoming.on("error", () => undefined);
    outgoing.on("error", () => undefined);
    if (outgoing instanceof CountedResponse) outgoing.onUnsent = (bytes) => this.#unsent(active, bytes);
    active.timer = setTimeout(() => this.#expire(active), this.limits.requestTime);

    if (this.#operationsOnMain) {
      const path = pathOf(incoming.url ?? "");
      if (isOperations(path)) {
        active.phase = "operations";
        this.#answerOperations(active, path).catch((error: unknown) => this.#cannotAnswer(active, error));
        return;
      }
    }
    const refusal = this.#admit(exchange, headers["content-length"]);
    if (refusal !== undefined) this.#refuse(active, refusal);
    else if (hasBody(incoming)) this.#receive(active);
    else this.#dispatch(active, EMPTY);
  };

  async fetch(request: Request, client?: string): Promise<Response> {
    const from = this.#proxies.clientOf(client, request.headers.get("x-forwarded-for") ?? undefined);
    const exchange = this.#begin(from, request.headers.get("x-ms-client-request-id"), request.method);
    this.#inFlight.add(1);
    let status: number = CLIENT_GONE;
    let bytesOut = 0;
    const timer = setTimeout(() => this.#interrupt(exchange), this.limits.requestTime);
    const gone = (): void => exchange.abort("the client has gone");
    request.signal.addEventListener("abort", gone);
    try {
      const response = await this.#answerWeb(exchange, request);
      ({ status } = response);
      bytesOut = Number(response.headers.get("content-length") ?? 0);
      return withIds(response, exchange);
    } finally {
      clearTimeout(timer);
      request.signal.removeEventListener("abort", gone);
      this.#inFlight.add(-1);
      this.#record(exchange, status, bytesOut);
    }
  }

  async operations(path: string): Promise<OperationsAnswer | undefined> {
    return operate(path, this.metrics, this.#readiness);
  }

  isProxy(address: string | undefined): boolean {
    return address !== undefined && !this.#proxies.isEmpty && this.#proxies.has(address);
  }

  retire(): void {
    this.#readiness.retire();
  }

  drain(): void {
    this.retire();
    this.#isDraining = true;
    for (const { outgoing } of this.#active) if (!outgoing.headersSent) outgoing.shouldKeepAlive = false;
  }

  abort(reason: string): void {
    for (const { exchange, incoming } of this.#active) {
      exchange.abort(reason);
      incoming.socket.destroy();
    }
  }

  #begin(client: string, clientRequestId: string | null | undefined, method: string): Exchange {
    return new Exchange(this.#ids.next(), client, clientRequestIdOf(clientRequestId), METHODS.has(method) ? method : "OTHER", this.logger);
  }

  /** Why a request does not get in, by what its headers say. */
  #admit(exchange: Exchange, contentLength: string | null | undefined): Refused | undefined {
    const wait = this.#rate?.take(exchange.client) ?? 0;
    if (wait > 0) return this.#refused(exchange, "rate", Math.ceil(wait / 1000));
    const full = this.#fullFor(exchange);
    if (full !== undefined) return this.#refused(exchange, full, RETRY_AFTER);
    if (contentLength !== undefined && contentLength !== null && Number(contentLength) > this.limits.maxBody) return this.#refused(exchange, "body-size");
    return undefined;
  }

  #fullFor({ client }: Exchange): Reason | undefined {
    return this.#busy >= this.limits.maxConcurrent ? "concurrency" : this.#answers.of(client) >= this.#answers.share ? "unread" : undefined;
  }

  #refused(exchange: Exchange, reason: Reason, retryAfter?: number): Refused {
    this.#rejected.with(reason).inc();
    exchange.note({ refused: reason });
    const { status, code, message } = REASONS[reason];
    return { ...this.#refusal(exchange, status, code, message(this.limits)), ...(retryAfter === undefined ? {} : { retryAfter }) };
  }

  #refusal(exchange: Exchange, status: Refusal["status"], code: Refusal["code"], message: string): Refused {
    return { status, text: JSON.stringify(this.#refusalBody({ status, code, message, requestId: exchange.id })) };
  }

  /** Reads the body as it comes from the parser: neither web streams nor copies but one. */
  #receive(active: Active): void {
    const { incoming, outgoing, exchange } = active;
    const { maxBody, stallTime } = this.limits;
    const { client } = exchange;
    const chunks: Buffer[] = [];
    const onData = (chunk: Buffer): void => {
      exchange.bytesIn += chunk.length;
      if (exchange.bytesIn > maxBody) return this.#refuse(active, this.#refused(exchange, "body-size"));
      chunks.push(chunk);
      const bodies = this.#bodies;
      bodies.add(client, active, chunk.length);
      for (let most = bodies.overShare(client) ?? bodies.overTotal(); most !== undefined; most = bodies.overShare(client) ?? bodies.overTotal())
        this.#refuse(most, this.#refused(most.exchange, "memory", RETRY_AFTER));
    };
    const onEnd = (): void => {
      leave();
      const [only] = chunks;
      const body = chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks, exchange.bytesIn);
      const full = this.#fullFor(exchange);
      if (full !== undefined) this.#refuse(active, this.#refused(exchange, full, RETRY_AFTER));
      else this.#dispatch(active, body);
    };
    const onClose = (): void => {
      leave();
      outgoing.destroy();
    };
    let before = 0;
    const pace = setInterval(() => {
      if (exchange.bytesIn - before < (MIN_BODY_RATE * stallTime) / 1000) this.#refuse(active, this.#refused(exchange, "body-rate"));
      before = exchange.bytesIn;
    }, stallTime);
    const leave = (): void => {
      clearInterval(pace);
      this.#bodies.drop(client, active);
      incoming.off("data", onData).off("end", onEnd).off("close", onClose);
      active.leaveBody = undefined;
    };
    active.leaveBody = leave;
    incoming.on("data", onData).on("end", onEnd).on("close", onClose);
    if (active.awaitsContinue) outgoing.writeContinue();
  }

  /** Counts what waits to be sent. Where all is too much, those who hold most of it lose their connections. */
  #unsent(active: Active, bytes: number): void {
    this.#answers.add(active.exchange.client, active, bytes);
    for (let most = this.#answers.overTotal(); most !== undefined; most = this.#answers.overTotal()) {
      const { exchange, incoming, outgoing } = most;
      this.#rejected.with("unread").inc();
      exchange.note({ refused: "unread" });
      this.#forgetUnsent(most);
      // One whose turn on its connection has not come has no socket of its own.
      outgoing.destroy();
      incoming.socket.destroy();
    }
  }

  #forgetUnsent(active: Active): void {
    if (active.outgoing instanceof CountedResponse) active.outgoing.onUnsent = undefined;
    this.#answers.drop(active.exchange.client, active);
  }

  #dispatch(active: Active, body: Buffer): void {
    const { exchange, outgoing } = active;
    const incoming: Incoming = active.incoming;
    active.phase = "handler";
    exchange.body = body;
    incoming[EXCHANGE] = exchange;
    // The adapter takes the whole body from here.
    if (body.length > 0) incoming.rawBody = body;
    this.#adapter(incoming, outgoing).catch((error: unknown) => this.#cannotAnswer(active, error));
  }

  /** The last resort: for an answer that HTTP does not take, such as one with a line break in a header. */
  #cannotAnswer(active: Active, error: unknown): void {
    const { exchange, incoming, outgoing } = active;
    this.#log(exchange, error);
    if (outgoing.headersSent || outgoing.destroyed) {
      incoming.socket.destroy();
      return;
    }
    for (const name of outgoing.getHeaderNames()) if (!name.startsWith("x-ms-")) outgoing.removeHeader(name);
    this.#refuse(active, this.#failed(exchange));
  }

  #fromAdapter(request: Request, incoming: Incoming): Response | Promise<Response> {
    const exchange = incoming[EXCHANGE];
    if (exchange === undefined) throw new ServiceError("ERR_SERVICE_ARGUMENT", "a request came past the service");
    return this.#handle(exchange, request, incoming.url ?? "");
  }

  #handle(exchange: Exchange, request: Request, url: string): Response | Promise<Response> {
    exchange.route = this.#routes.of(request, url);
    this.#busy++;
    let answer: Response | Promise<Response>;
    try {
      answer = this.#app.fetch(request, exchange);
    } catch (error) {
      this.#busy--;
      return this.#failure(exchange, error);
    }
    if (!(answer instanceof Promise)) {
      this.#busy--;
      return answer;
    }
    return new Promise((resolve, reject) => {
      exchange.interrupt = resolve;
      answer
        .catch((error: unknown) => this.#failure(exchange, error))
        .finally(() => {
          this.#busy--;
          // From here on it is the client that takes its time.
          exchange.interrupt = undefined;
        })
        .then(resolve, reject);
    });
  }

  #failure(exchange: Exchange, error: unknown): Response {
    this.#log(exchange, error);
    return responseOf(this.#failed(exchange));
  }

  #failed(exchange: Exchange): Refused {
    return this.#refusal(exchange, 500, "InternalServerError", `The service failed. Id in its log: ${exchange.id}`);
  }

  #log(exchange: Exchange, error: unknown): void {
    exchange.logger.log("error", "request failed", {
      problem: messageOf(error),
      code: isSealpodError(error) ? error.code : undefined,
      stack: error instanceof Error ? error.stack?.slice(0, MAX_STACK) : undefined,
    });
  }

  /** What the adapter could not make a request of, such as a target that is no path. */
  #escaped(error: unknown): Response {
    const isRequest = error instanceof RequestError;
    if (!isRequest) this.logger.log("error", "request failed", { problem: messageOf(error) });
    const [status, code, message] = isRequest
      ? ([400, "BadRequest", "The request's target or host is not valid."] as const)
      : ([500, "InternalServerError", "The service failed."] as const);
    return responseOf({ status, text: JSON.stringify(this.#refusalBody({ status, code, message, requestId: "" })) });
  }

  /** The time of a request is over. */
  #expire(active: Active): void {
    const { exchange, incoming, phase } = active;
    if (phase === "body") this.#refuse(active, this.#refused(exchange, "body-time"));
    else if (phase === "operations") this.#refuse(active, this.#refused(exchange, "time", RETRY_AFTER));
    else if (phase !== "handler" || !this.#interrupt(exchange)) {
      exchange.abort("the request's time is over");
      incoming.socket.destroy();
      return;
    }
    active.timer = setTimeout(() => this.#expire(active), LAST_WORDS);
  }

  #interrupt(exchange: Exchange): boolean {
    if (exchange.interrupt === undefined) return false;
    exchange.interrupt(responseOf(this.#refused(exchange, "time", RETRY_AFTER)));
    exchange.interrupt = undefined;
    exchange.abort("the request's time is over");
    return true;
  }

  /** Answers in place of the application, and cares for the body that nobody reads. */
  #refuse(active: Active, { status, text, retryAfter }: Refused): void {
    const { incoming, outgoing, awaitsContinue } = active;
    active.leaveBody?.();
    active.phase = "answered";
    const isUnread = hasBody(incoming) && !incoming.readableEnded && !(Number(incoming.headers["content-length"] ?? Number.NaN) <= SMALL_BODY);
    outgoing.writeHead(status, {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(text),
      ...(retryAfter === undefined ? {} : { "retry-after": String(retryAfter) }),
      ...(isUnread || awaitsContinue || status === 408 ? { connection: "close" } : {}),
    });
    if (!isUnread || awaitsContinue) {
      outgoing.end(text);
      return;
    }
    // The answer is whole, and the client can read it; the connection ends when it has stopped sending.
    outgoing.write(text);
    let left = this.limits.maxBody;
    const end = (): void => {
      clearTimeout(timer);
      incoming.off("data", onData).off("end", end).off("close", end);
      outgoing.end();
    };
    const onData = (chunk: Buffer): void => {
      left -= chunk.length;
      if (left < 0) end();
    };
    const timer = setTimeout(end, LINGER);
    incoming.on("data", onData).on("end", end).on("close", end);
    incoming.resume();
  }

  async #answerOperations(active: Active, path: string): Promise<void> {
    const { exchange, incoming, outgoing } = active;
    exchange.route = path;
    exchange.level = "debug";
    const answer = await operate(path, this.metrics, this.#readiness);
    // Its time may be over, and that answered.
    if (answer !== undefined && active.phase === "operations") sendOperations(incoming, outgoing, answer);
  }

  async #answerWeb(exchange: Exchange, request: Request): Promise<Response> {
    const path = new URL(request.url).pathname;
    if (this.#operationsOnMain && isOperations(path)) {
      exchange.route = path;
      exchange.level = "debug";
      const answer = await operate(path, this.metrics, this.#readiness);
      if (answer !== undefined)
        return new Response(answer.text, { status: answer.status, headers: { "content-type": answer.type, "cache-control": "no-store" } });
    }
    const refusal = this.#admit(exchange, request.headers.get("content-length"));
    if (refusal !== undefined) return responseOf(refusal);
    const { method, headers, signal, url } = request;
    if (method === "GET" || method === "HEAD") {
      exchange.body = EMPTY;
      return this.#handle(exchange, request, url);
    }
    let body: Uint8Array;
    try {
      body = await readWebBody(request, this.limits.maxBody);
    } catch (error) {
      if (!isSealpodError(error)) throw error;
      return responseOf(this.#refused(exchange, "body-size"));
    }
    exchange.body = body;
    exchange.bytesIn = body.length;
    return this.#handle(exchange, new Request(url, { method, headers, signal, ...(body.length === 0 ? {} : { body: body as Uint8Array<ArrayBuffer> }) }), url);
  }

  #closed(active: Active): void {
    const { outgoing, exchange } = active;
    clearTimeout(active.timer);
    active.leaveBody?.();
    this.#forgetUnsent(active);
    this.#active.delete(active);
    this.#inFlight.add(-1);
    const isWhole = outgoing.writableFinished;
    if (!isWhole) exchange.abort("the client has gone");
    this.#record(exchange, isWhole ? outgoing.statusCode : CLIENT_GONE, outgoing instanceof CountedResponse ? outgoing.bytesOut : 0);
  }

  #record(exchange: Exchange, status: number, bytesOut: number): void {
    const { route, method } = exchange;
    const ms = performance.now() - exchange.started;
    this.#requests.with(route, method, String(status)).inc();
    this.#durations.with(route, method).observe(ms / 1000);
    this.logger.log(exchange.level, "request", {
      ...exchange.notes,
      id: exchange.id,
      clientId: exchange.clientRequestId,
      client: exchange.client,
      method,
      route,
      status,
      ms: Math.round(ms * 100) / 100,
      bytesIn: exchange.bytesIn,
      bytesOut,
    });
  }
}

type Reason = "rate" | "concurrency" | "memory" | "unread" | "body-size" | "body-time" | "body-rate" | "time";

interface Refused {
  readonly status: Refusal["status"];
  readonly text: string;
  /** Seconds. */
  readonly retryAfter?: number;
}

const REASONS: Readonly<
  Record<Reason, { readonly status: Refusal["status"]; readonly code: Refusal["code"]; readonly message: (limits: ServiceLimits) => string }>
> = {
  rate: { status: 429, code: "TooManyRequests", message: () => "Too many requests from your address: ask again after the seconds in Retry-After." },
  concurrency: { status: 503, code: "ServiceUnavailable", message: ({ maxConcurrent }) => `The service is busy with ${maxConcurrent} requests: ask again.` },
  memory: { status: 503, code: "ServiceUnavailable", message: () => "The service is busy with other requests' bodies: ask again." },
  unread: { status: 503, code: "ServiceUnavailable", message: () => "Too many answers wait for your address to read them: read them, then ask again." },
  "body-size": { status: 413, code: "RequestEntityTooLarge", message: ({ maxBody }) => `The request body is larger than ${maxBody} bytes.` },
  "body-time": { status: 408, code: "RequestTimeout", message: ({ requestTime }) => `The request body did not come within ${requestTime} milliseconds.` },
  "body-rate": { status: 408, code: "RequestTimeout", message: () => `The request body came with less than ${MIN_BODY_RATE} bytes per second.` },
  time: { status: 503, code: "ServiceUnavailable", message: ({ requestTime }) => `The service did not answer within ${requestTime} milliseconds: ask again.` },
};

function responseOf({ status, text, retryAfter }: Refused): Response {
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (retryAfter !== undefined) headers["retry-after"] = String(retryAfter);
  return new Response(text, { status, headers });
}

/** The response with the ids in its headers. */
function withIds(response: Response, { id, clientRequestId }: Exchange): Response {
  const add = (headers: Headers): void => {
    headers.set("x-ms-request-id", id);
    if (clientRequestId !== undefined) headers.set("x-ms-client-request-id", clientRequestId);
  };
  try {
    add(response.headers);
    return response;
  } catch {
    // Those of a response that was fetched cannot be changed.
    const headers = new Headers(response.headers);
    add(headers);
    return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
  }
}

/** Answers on a listener of `node:http`. */
export function sendOperations({ method }: IncomingMessage, outgoing: ServerResponse, answer: OperationsAnswer): void {
  const isRead = method === "GET" || method === "HEAD";
  const text = isRead ? answer.text : "only GET and HEAD\n";
  outgoing.writeHead(isRead ? answer.status : 405, {
    "content-type": isRead ? answer.type : "text/plain",
    "content-length": Buffer.byteLength(text),
    "cache-control": "no-store",
    ...(isRead ? {} : { allow: "GET, HEAD" }),
  });
  outgoing.end(text);
}

/** The path of a request target. */
export function pathOf(target: string): string {
  const query = target.indexOf("?");
  return query === -1 ? target : target.slice(0, query);
}

function isOperations(path: string): boolean {
  return path === "/healthz" || path === "/readyz" || path === "/metrics";
}

function hasBody({ headers }: IncomingMessage): boolean {
  const length = headers["content-length"];
  return headers["transfer-encoding"] !== undefined || (length !== undefined && length !== "0");
}
