import { encodeUtf8, type JsonObject, sha256, toHex } from "@sealpod/core";
import { generatePolicy } from "@sealpod/genpolicy";
import type { ImageMeasurer, MeasuredImage } from "../../author/genpolicy/images.ts";
import { dataOf, requestOf, RULES, SANDBOX_ID, SETTINGS } from "../../author/genpolicy/test-support.ts";
import { serviceVariables } from "./pods.ts";

/** The policy that sealpod itself generates, with its own rules, for a pod of ten containers; and the request for the last one. */

const CONTAINERS = 10;
const LAYERS_OF_AN_IMAGE = 2;

/** A policy as text with the request and the state that belong to it. */
export async function ownPolicy(): Promise<{ readonly text: string; readonly request: JsonObject; readonly state: JsonObject }> {
  const { policies } = await generatePolicy({
    manifest: { name: "pod.yaml", text: manifest() },
    settings: SETTINGS,
    rules: RULES,
    measurer: measurer(),
  });
  const text = policies[0]?.policy;
  if (text === undefined) throw new Error("genpolicy made no policy");
  const data = dataOf(policies[0]);
  const request = requestOf(data, data.containers.length - 1);
  const sandbox = { name: "web", namespace: "default", id: SANDBOX_ID, uid: "01234567-89ab-cdef-0123-456789abcdef" };
  return { text, request: withServices(request), state: { pstate: { sandbox, [SANDBOX_ID]: 0 } } };
}

/** The request as Kubernetes makes it: with a variable for each service of the namespace. */
function withServices(request: JsonObject): JsonObject {
  const { OCI } = request as unknown as { readonly OCI: JsonObject & { readonly Process: JsonObject & { readonly Env: readonly string[] } } };
  return { ...request, OCI: { ...OCI, Process: { ...OCI.Process, Env: [...OCI.Process.Env, ...serviceVariables()] } } };
}

function manifest(): string {
  const lines = ["apiVersion: v1", "kind: Pod", "metadata:", "  name: web", "spec:", "  containers:"];
  for (let index = 0; index < CONTAINERS; index++) {
    lines.push(`    - name: container-${index}`, `      image: app-${index}:1`, "      env:");
    for (const name of ["LISTEN", "REGION", "STAGE", "CACHE"]) lines.push(`        - { name: ${name}, value: "${name.toLowerCase()}-${index}" }`);
    for (const [name, path] of [
      ["POD_NAME", "metadata.name"],
      ["POD_IP", "status.podIP"],
      ["NODE_NAME", "spec.nodeName"],
    ]) {
      lines.push(`        - { name: ${name}, valueFrom: { fieldRef: { fieldPath: ${path} } } }`);
    }
    lines.push(
      "      volumeMounts:",
      "        - { name: settings, mountPath: /srv/settings, readOnly: true }",
      "        - { name: cache, mountPath: /var/cache }",
    );
  }
  lines.push("  volumes:", "    - { name: settings, configMap: { name: settings } }", "    - { name: cache, emptyDir: {} }");
  return `${lines.join("\n")}\n`;
}

/** Images with made-up layers: what a policy says of them costs the same. */
function measurer(): Pick<ImageMeasurer, "measure"> {
  const hexOf = (text: string): string => toHex(sha256(encodeUtf8(text)));
  return {
    measure(reference): Promise<MeasuredImage> {
      const layers = Array.from({ length: LAYERS_OF_AN_IMAGE }, (_, index) => ({
        id: hexOf(`${reference} id ${index}`),
        rootHash: hexOf(`${reference} root ${index}`),
      }));
      const config = {
        user: "",
        env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        entrypoint: ["/usr/bin/serve"],
        cmd: [],
        workingDir: "",
        tty: false,
        volumes: [],
        diffIds: layers.map(({ id }) => `sha256:${id}`),
        architecture: "amd64",
        os: "linux",
      };
      const manifestDigest = `sha256:${hexOf(reference)}`;
      return Promise.resolve({ reference, manifestDigest, config, layers, passwd: "", group: "", linkedUserFiles: [] });
    },
  };
}
