import { readFileSync } from "node:fs";
import { type JsonObject, sha256, toHex } from "@sealpod/core";
import { DATA_DIRECTORY, generatePolicy } from "@sealpod/genpolicy";
import type { Image, ImageSource, Layer } from "@sealpod/oci";
import { dataOf, requestOf, SANDBOX_ID } from "../../author/genpolicy/test-support.ts";
import { serviceVariables } from "./pods.ts";

/** The policy that sealpod itself generates, with its own rules, for a pod of ten containers; and the request for the last one. */

const CONTAINERS = 10;
const LAYERS_OF_AN_IMAGE = 2;

/** A policy as text with the request and the state that belong to it. */
export async function ownPolicy(): Promise<{ readonly text: string; readonly request: JsonObject; readonly state: JsonObject }> {
  const read = (name: string): string => readFileSync(new URL(name, DATA_DIRECTORY), "utf8");
  const { policies } = await generatePolicy({
    manifest: { name: "pod.yaml", text: manifest() },
    settings: read("genpolicy-settings.json"),
    rules: read("rules.rego"),
    images: images(),
  });
  const text = policies[0]?.policy;
  if (text === undefined) throw new Error("genpolicy made no policy");
  const data = dataOf(policies[0]);
  const request = requestOf(data, data.containers.length - 1);
  const sandbox = { name: "web", namespace: "default", id: SANDBOX_ID };
  return { text, request: withServices(request), state: { pstate: { sandbox, containers: { [SANDBOX_ID]: 0 } } } };
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

/** Images whose layers are empty tars of different lengths. */
function images(): ImageSource {
  const tars = new Map<string, Uint8Array>();
  return {
    resolve(reference): Promise<Image> {
      const number = Number(/[0-9]+/.exec(reference)?.[0] ?? "0");
      const layers = Array.from({ length: LAYERS_OF_AN_IMAGE }, (_, index): Layer => {
        const tar = new Uint8Array(1024 + 512 * (number * LAYERS_OF_AN_IMAGE + index));
        const digest = `sha256:${toHex(sha256(tar))}`;
        tars.set(digest, tar);
        return { digest, size: tar.length, mediaType: "application/vnd.oci.image.layer.v1.tar", diffId: digest };
      });
      const config = {
        user: "",
        env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        entrypoint: ["/usr/bin/serve"],
        cmd: [],
        workingDir: "",
        tty: false,
        volumes: [],
        diffIds: layers.map(({ diffId }) => diffId),
        architecture: "amd64",
        os: "linux",
      };
      return Promise.resolve({ reference, manifestDigest: "sha256:0", configDigest: "sha256:0", config, layers });
    },
    async *layerTar({ diffId }) {
      await Promise.resolve();
      yield tars.get(diffId) ?? new Uint8Array();
    },
  };
}
