import { describe, expect, it } from "vitest";
import { encodeUtf8 } from "@sealpod/core";
import { expand, processText, serviceVariables } from "./environment.ts";
import type { PodContainer, PodTemplate } from "./pod.ts";
import { context, TEMPLATE } from "./testdata/fixtures.ts";

const IMAGE = { user: "", env: ["PATH=/img", "A=image"], entrypoint: ["/entry"], cmd: ["one", "two"], workingDir: "" };

function text(container: Partial<PodContainer>, changes: Parameters<typeof context>[0] = {}, template: PodTemplate = TEMPLATE): ReturnType<typeof processText> {
  return processText({ name: "c", image: "i", ...container }, IMAGE, template, context({ services: [], ...changes }), "host-1");
}

describe("expand", () => {
  const value = (name: string): string | undefined => ({ A: "1", B: "$(A)" })[name];
  it.each([
    ["$(A)", "1"],
    ["x$(A)y$(A)", "x1y1"],
    ["$(B)", "$(A)"], // values are not expanded again
    ["$$(A)", "$(A)"],
    ["$$$(A)", "$1"],
    ["$(C)", "$(C)"],
    ["$()", "$()"],
    ["$(A", "$(A"],
    ["$", "$"],
    ["a$", "a$"],
    ["$A", "$A"],
    ["$$", "$"],
  ])("turns %j into %j", (from, to) => {
    expect(expand(from, value)).toBe(to);
  });
});

describe("environment", () => {
  it("merges by name: default PATH, HOSTNAME, image, pod, services", () => {
    const services = [{ name: "my-db", host: "10.0.0.9", ports: [{ port: 5432 }] }];
    const { env } = text({ env: [{ name: "A", value: "pod" }], tty: true }, { services });
    expect(env.slice(0, 4)).toEqual(["PATH=/img", "TERM=xterm", "HOSTNAME=host-1", "A=pod"]);
    expect(env[4]).toBe("MY_DB_SERVICE_HOST=10.0.0.9");
  });

  it("gives an image without PATH the default one", () => {
    const { env } = processText({ name: "c", image: "i" }, { ...IMAGE, env: [] }, TEMPLATE, context({ services: [] }), "h");
    expect(env).toEqual(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=h"]);
  });

  it("expands against earlier variables only", () => {
    const { env } = text({
      env: [
        { name: "X", value: "$(Y)" },
        { name: "Y", value: "1" },
        { name: "Z", value: "$(Y)" },
      ],
    });
    expect(env).toContain("X=$(Y)");
    expect(env).toContain("Z=1");
  });

  it.each([
    ["metadata.name", "nginx-deployment-5d59d67564-x2lvq"],
    ["metadata.namespace", "default"],
    ["metadata.uid", "5f0c8f7e-2f51-4a7c-9d37-0d9c2a1b3c4d"],
    ["metadata.labels['app']", "nginx"],
    ["metadata.annotations['example.org/owner']", "someone"],
    ["metadata.labels['nothing']", ""],
    ["spec.nodeName", "laptop"],
    ["spec.serviceAccountName", "workload-identity-sa"],
    ["status.podIP", "10.0.2.100"],
    ["status.hostIP", "192.0.2.1"],
  ])("takes %s from the pod", (fieldPath, value) => {
    expect(text({ env: [{ name: "F", valueFrom: { fieldRef: { fieldPath } } }] }).env).toContain(`F=${value}`);
  });

  it("takes values from ConfigMaps and Secrets, and does not expand them", () => {
    const configMaps = new Map([["cm", new Map([["k", encodeUtf8("$(A)")]])]]);
    const secrets = new Map([["s", new Map([["p", encodeUtf8("w")]])]]);
    const { env } = text(
      {
        env: [
          { name: "A", value: "1" },
          { name: "C", valueFrom: { configMapKeyRef: { name: "cm", key: "k" } } },
          { name: "D", valueFrom: { configMapKeyRef: { name: "cm", key: "none", optional: true } } },
        ],
        envFrom: [{ secretRef: { name: "s" }, prefix: "S_" }],
      },
      { configMaps, secrets },
    );
    expect(env).toContain("C=$(A)");
    expect(env).toContain("S_p=w");
    expect(env.some((entry) => entry.startsWith("D="))).toBe(false);
  });

  it.each([
    [{ env: [{ name: "C", valueFrom: { configMapKeyRef: { name: "cm", key: "k" } } }] }, "ERR_KUBELET_UNRESOLVED"],
    [{ envFrom: [{ secretRef: { name: "s" } }] }, "ERR_KUBELET_UNRESOLVED"],
    [{ envFrom: [{}] }, "ERR_KUBELET_INVALID_POD"],
    [{ env: [{ name: "F", valueFrom: { fieldRef: { fieldPath: "status.podIPs" } } }] }, "ERR_KUBELET_UNSUPPORTED"],
    [{ env: [{ name: "F", valueFrom: {} }] }, "ERR_KUBELET_UNSUPPORTED"],
    [{ env: [{ name: "A=B", value: "" }] }, "ERR_KUBELET_INVALID_POD"],
    [{ env: [{ name: "", value: "" }] }, "ERR_KUBELET_INVALID_POD"],
  ])("refuses %j", (container, code) => {
    expect(() => text(container)).toThrow(expect.objectContaining({ code }));
  });

  it.each([
    [{}, ["/entry", "one", "two"]],
    [{ args: ["x"] }, ["/entry", "x"]],
    [{ command: ["/c"] }, ["/c"]],
    [{ command: ["/c"], args: ["x", "$(HOSTNAME)"] }, ["/c", "x", "$(HOSTNAME)"]], // kubelet expands the pod's variables, not the container's
    [{ args: ["$(V)"], env: [{ name: "V", value: "v" }] }, ["/entry", "v"]],
  ])("puts the command of %j together", (container, args) => {
    expect(text(container).args).toEqual(args);
  });

  it("refuses a container without any command", () => {
    expect(() => processText({ name: "c", image: "i" }, { ...IMAGE, entrypoint: [], cmd: [] }, TEMPLATE, context(), "h")).toThrow(
      expect.objectContaining({ code: "ERR_KUBELET_INVALID_POD" }),
    );
  });
});

describe("serviceVariables", () => {
  it("writes the eight variables of the API server", () => {
    expect(Object.fromEntries(serviceVariables([{ name: "kubernetes", host: "10.0.0.1", ports: [{ name: "https", port: 443 }] }]))).toEqual({
      KUBERNETES_SERVICE_HOST: "10.0.0.1",
      KUBERNETES_SERVICE_PORT: "443",
      KUBERNETES_SERVICE_PORT_HTTPS: "443",
      KUBERNETES_PORT: "tcp://10.0.0.1:443",
      KUBERNETES_PORT_443_TCP: "tcp://10.0.0.1:443",
      KUBERNETES_PORT_443_TCP_PROTO: "tcp",
      KUBERNETES_PORT_443_TCP_PORT: "443",
      KUBERNETES_PORT_443_TCP_ADDR: "10.0.0.1",
    });
  });
});
