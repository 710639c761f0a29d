import { chmod } from "node:fs/promises";
import { createServer, request as httpRequest } from "node:http";
import { getRequestListener } from "@hono/node-server";
import { asArray, asObject, concatBytes, decodeUtf8, isSealpodError, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { issueServiceAccountToken, reviewServiceAccountToken, type ClusterIssuer } from "@sealpod/identity";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { ServicesError } from "./errors.ts";

const MAX_BODY = 64 * 1024;

/** For which pod and audience a service-account token is asked. */
export interface TokenRequest {
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly audiences: readonly string[];
  readonly pod: { readonly name: string; readonly uid: string };
  /** 600 to 86400; default 3600. */
  readonly expirationSeconds?: number;
}

/**
 * The two resources of the Kubernetes API that are needed here, of `authentication.k8s.io/v1`: `POST …/serviceaccounts/{name}/token` with a TokenRequest, as kubelets ask;
 * and `POST …/tokenreviews` with a TokenReview, by which those who get such a token learn whose it is.
 */
export function kubeApp(cluster: ClusterIssuer, serviceAccountUid: (namespace: string, name: string) => string): Hono {
  const app = new Hono();
  const limit = bodyLimit({ maxSize: MAX_BODY });
  app.post("/api/v1/namespaces/:namespace/serviceaccounts/:name/token", limit, async (c) => {
    const { namespace, name } = c.req.param();
    const body = asObject(parseJson(await c.req.text(), "TokenRequest", { maxLength: MAX_BODY, maxDepth: 16 }));
    const spec = asObject(body?.["spec"]);
    const pod = asObject(spec?.["boundObjectRef"]);
    const seconds = spec?.["expirationSeconds"];
    if (body?.["kind"] !== "TokenRequest" || body["apiVersion"] !== "authentication.k8s.io/v1" || spec === undefined) {
      throw new TypeError("expected a TokenRequest of authentication.k8s.io/v1");
    }
    if (seconds !== undefined && typeof seconds !== "number") throw new TypeError("spec.expirationSeconds is not a number");
    const issued = await issueServiceAccountToken(cluster, {
      namespace,
      serviceAccount: { name, uid: serviceAccountUid(namespace, name) },
      audiences: strings(spec["audiences"], "spec.audiences"),
      ...(pod === undefined ? {} : { pod: podReference(pod) }),
      ...(seconds === undefined ? {} : { expirationSeconds: seconds }),
    });
    const expirationTimestamp = new Date(issued.expires * 1000).toISOString().replace(".000Z", "Z");
    return c.json({ kind: "TokenRequest", apiVersion: "authentication.k8s.io/v1", status: { token: issued.token, expirationTimestamp } }, 201);
  });
  app.post("/apis/authentication.k8s.io/v1/tokenreviews", limit, async (c) => {
    const body = asObject(parseJson(await c.req.text(), "TokenReview", { maxLength: MAX_BODY, maxDepth: 16 }));
    const spec = asObject(body?.["spec"]);
    const { token, audiences } = spec ?? {};
    if (body?.["kind"] !== "TokenReview" || body["apiVersion"] !== "authentication.k8s.io/v1" || typeof token !== "string") {
      throw new TypeError("expected a TokenReview of authentication.k8s.io/v1 with a token");
    }
    return c.json({ kind: "TokenReview", apiVersion: "authentication.k8s.io/v1", status: await review(token, audiences) }, 201);
  });
  app.notFound((c) => c.json(status(404, "NotFound", "this API server has service-account tokens alone"), 404));
  app.onError((error, c) => c.json(status(400, "BadRequest", messageOf(error)), 400));
  return app;

  /** What kube-apiserver says: a token that is refused is an answer, not an error. */
  async function review(token: string, audiences: JsonValue | undefined): Promise<JsonObject> {
    const wanted = audiences === undefined ? [] : strings(audiences, "spec.audiences");
    try {
      const { username, uid, groups, extra, audiences: found } = await reviewServiceAccountToken(cluster, token, wanted);
      return { authenticated: true, user: { username, uid, groups, extra }, audiences: found };
    } catch (error) {
      if (!isSealpodError(error) || error.code === "ERR_IDENTITY_STORE") throw error;
      return { authenticated: false, user: {}, error: messageOf(error) };
    }
  }
}

/** Serves an application on a unix socket that only its owner can connect to. The directory must be private: a socket is made before its mode is set. */
export async function serveUnix(path: string, app: Hono): Promise<AsyncDisposable> {
  const answer = getRequestListener(app.fetch, { overrideGlobalObjects: false });
  const server = createServer((request, response) => void answer(request, response));
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => reject(new ServicesError("ERR_SERVICES_STATE", `cannot listen on ${path}: ${cause.message}`, { cause })));
    server.listen(path, resolve);
  });
  await chmod(path, 0o600);
  return {
    async [Symbol.asyncDispose]() {
      const closed = Promise.withResolvers<void>();
      server.close(() => closed.resolve());
      server.closeAllConnections();
      await closed.promise;
    },
  };
}

/**
 * Asks the embedded Kubernetes API for a service-account token.
 * @param socket path of its unix socket, `up.sockets.kube`
 * @throws {ServicesError} ERR_SERVICES_FETCH
 */
export async function requestServiceAccountToken(socket: string, request: TokenRequest): Promise<string> {
  const { namespace, serviceAccount, audiences, pod, expirationSeconds = 3600 } = request;
  const body = JSON.stringify({
    kind: "TokenRequest",
    apiVersion: "authentication.k8s.io/v1",
    spec: { audiences, expirationSeconds, boundObjectRef: { kind: "Pod", apiVersion: "v1", name: pod.name, uid: pod.uid } },
  });
  const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/serviceaccounts/${encodeURIComponent(serviceAccount)}/token`;
  const answer = await post(socket, path, body);
  const token = asObject(answer["status"])?.["token"];
  if (typeof token !== "string") {
    const reason = typeof answer["message"] === "string" ? answer["message"] : "no reason given";
    throw new ServicesError("ERR_SERVICES_FETCH", `no token for service account ${namespace}/${serviceAccount}: ${reason}`);
  }
  return token;
}

async function post(socketPath: string, path: string, body: string): Promise<JsonObject> {
  return new Promise<JsonObject>((resolve, reject) => {
    const fail = (cause: unknown): void => {
      reject(new ServicesError("ERR_SERVICES_FETCH", `${socketPath}: ${messageOf(cause)}`, { cause, hint: 'Do the services run? "sealpod up" starts them.' }));
    };
    const headers = { host: "kube", "content-type": "application/json", "content-length": Buffer.byteLength(body) };
    const sent = httpRequest({ socketPath, path, method: "POST", headers, agent: false });
    sent.on("error", fail);
    sent.on("response", (response) => {
      const chunks: Uint8Array[] = [];
      response.on("data", (chunk: Uint8Array) => chunks.push(chunk));
      response.on("error", fail);
      response.on("end", () => {
        try {
          resolve(asObject(parseJson(decodeUtf8(concatBytes(...chunks)), "answer")) ?? {});
        } catch (error) {
          fail(error);
        }
      });
    });
    sent.end(body);
  });
}

function strings(value: JsonValue | undefined, what: string): readonly string[] {
  const list = asArray(value) ?? [];
  if (list.length === 0 || !list.every((item) => typeof item === "string")) throw new TypeError(`${what} is not a list of strings`);
  return list;
}

function podReference(object: JsonObject): TokenRequest["pod"] {
  const { kind, name, uid } = object;
  if (kind !== "Pod" || typeof name !== "string" || typeof uid !== "string") throw new TypeError("spec.boundObjectRef is not a Pod with name and uid");
  return { name, uid };
}

/** Kubernetes' own form of an error. */
function status(code: number, reason: string, message: string): JsonObject {
  return { kind: "Status", apiVersion: "v1", status: "Failure", message, reason, code };
}
