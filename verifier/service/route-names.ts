/** The part of a Hono application, whatever its variables, that a service uses. */
export interface ServedApp {
  fetch(request: Request, bindings?: object): Response | Promise<Response>;
  getPath(request: Request): string;
  readonly router: {
    match(
      method: string,
      path: string,
    ): readonly [readonly (readonly [readonly [unknown, { readonly method: string; readonly path: string }], unknown])[], ...unknown[]];
  };
}

/** Paths whose route is remembered. What clients put into paths must not fill the memory. */
const MAX_REMEMBERED = 2048;
const MAX_PATH = 200;

/** What requests are called that no route of the application takes. */
const NONE = "(none)";

/** `:type{[^/]+}`: what a parameter must match is no business of who reads metrics. */
const PARAMETER_PATTERN = /(:\w+)\{(?:[^{}]|\{[^{}]*\})*\}/g;

/**
 * Names requests by the pattern of their route (`/keys/:name/:version`): paths hold names of people's keys, and are as many as clients like.
 */
export class RouteNames {
  readonly #app: ServedApp;
  readonly #known = new Map<string, string>();

  constructor(app: ServedApp) {
    this.#app = app;
  }

  /** Paths that are remembered. */
  get size(): number {
    return this.#known.size;
  }

  /** @param target the request target or URL, by which the answer is remembered */
  of(request: Request, target: string): string {
    const query = target.indexOf("?");
    const key = `${request.method} ${query === -1 ? target : target.slice(0, query)}`;
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const name = this.#match(request);
    if (name !== NONE && key.length <= MAX_PATH) {
      if (this.#known.size >= MAX_REMEMBERED) this.#known.clear();
      this.#known.set(key, name);
    }
    return name;
  }

  /** The first route that is for this method; else one for any method that is not for any path, which middleware is. */
  #match(request: Request): string {
    const method = request.method === "HEAD" ? "GET" : request.method;
    try {
      const [matches] = this.#app.router.match(method, this.#app.getPath(request));
      const routes = matches.map(([[, route]]) => route);
      const route = routes.find(({ method }) => method !== "ALL") ?? routes.find(({ path }) => !/^\/?\*?$/.test(path));
      return route?.path.replaceAll(PARAMETER_PATTERN, "$1") ?? NONE;
    } catch {
      return NONE;
    }
  }
}
