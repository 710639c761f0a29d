import { describe, expect, it } from "vitest";
import { encodeUtf8 } from "@sealpod/core";
import { kubeletVariables, processText, serviceVariables } from "./environment.ts";
import { expand } from "./expand.ts";
import type { PodContainer, PodTemplate } from "./pod.ts";
import { context, TEMPLATE } from "./testdata/fixtures.ts";

const IMAGE = { user: "", env: ["PATH=/img", "A=image"], entrypoint: ["/entry"], cmd: ["one", "two"], workingDir: "" };

function text(container: Partial<PodContainer>, changes: Parameters<typeof context>[0] = {}, template: PodTemplate = TEMPLATE): ReturnType<typeof processText> {
  const whole = { name: "c", image: "i", ...container };
  return processText(whole, IMAGE, kubeletVariables(whole, template, context({ services: [], ...changes })), "host-1");
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
  it("merges as containerd does: over PATH, TERM and HOSTNAME, else after one another", () => {
    const services = [{ name: "my-db", host: "10.0.0.9", ports: [{ port: 5432 }] }];
    const { env } = text({ env: [{ name: "A", value: "pod" }], tty: true }, { services });
    expect(env.slice(0, 6)).toEqual(["PATH=/img", "TERM=xterm", "HOSTNAME=host-1", "A=image", "A=pod", "MY_DB_SERVICE_HOST=10.0.0.9"]);
  });

  it("gives an image without PATH the default one, and takes it away from one that says so", () => {
    const of = (env: readonly string[]): readonly string[] => processText({ name: "c", image: "i" }, { ...IMAGE, env }, new Map(), "h").env;
    expect(of([])).toEqual(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=h"]);
    expect(of(["PATH", "OTHER"])).toEqual(["HOSTNAME=h"]);
  });

  it("names no services to a pod that does not want links, but the API server", () => {
    const services = [
      { name: "db", host: "10.0.0.9", ports: [{ port: 5432 }] },
      { name: "kubernetes", host: "10.0.0.1", ports: [{ port: 443 }] },
    ];
    const unlinked = { ...TEMPLATE, spec: { ...TEMPLATE.spec, enableServiceLinks: false } };
    const { env } = text({}, { services }, unlinked);
    expect(env).toContain("KUBERNETES_SERVICE_HOST=10.0.0.1");
    expect(env.join()).not.toContain("DB_");
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
    ["status.hostIPs", "192.0.2.1"],
    ["status.podIPs", "10.0.2.100"],
    ["metadata.labels['constructor']", ""],
  ])("takes %s from the pod", (fieldPath, value) => {
    expect(text({ env: [{ name: "F", valueFrom: { fieldRef: { fieldPath } } }] }).env).toContain(`F=${value}`);
  });

  it.each([
    [{ resource: "limits.cpu" }, "1"],
    [{ resource: "limits.cpu", divisor: "1m" }, "60"],
    [{ resource: "requests.cpu", divisor: "1m" }, "60"],
    [{ resource: "limits.memory", divisor: "1Mi" }, "512"],
    [{ resource: "limits.memory", divisor: 0 }, "536870912"],
    [{ resource: "requests.memory", divisor: "1G" }, "1"],
    [{ resource: "limits.ephemeral-storage", divisor: "1Gi" }, "10"],
    [{ resource: "requests.ephemeral-storage" }, "0"],
    [{ resource: "limits.memory", containerName: "nginx" }, "536870912"],
  ])("takes the resource %j", (resourceFieldRef, value) => {
    const resources = { limits: { cpu: "60m", memory: "512Mi" } };
    expect(text({ resources, env: [{ name: "F", valueFrom: { resourceFieldRef } }] }).env).toContain(`F=${value}`);
  });

  it("gives a container without limits those of the node", () => {
    const of = (resource: string): unknown => text({ env: [{ name: "F", valueFrom: { resourceFieldRef: { resource } } }] }).env.at(-1);
    expect(of("limits.cpu")).toBe("F=2");
    expect(of("limits.memory")).toBe(`F=${6 * 1024 ** 3}`);
    expect(of("requests.memory")).toBe("F=0");
  });

  it("takes values from ConfigMaps and Secrets, and does not expand them", () => {
    const configMaps = new Map([["cm", { data: new Map([["k", encodeUtf8("$(A)")]]) }]]);
    const secrets = new Map([
      [
        "s",
        new Map([
          ["p", encodeUtf8("w")],
          ["0", encodeUtf8("zero")],
        ]),
      ],
    ]);
    const { env } = text(
      {
        env: [
          { name: "A", value: "1" },
          { name: "C", valueFrom: { configMapKeyRef: { name: "cm", key: "k" } } },
          { name: "D", valueFrom: { configMapKeyRef: { name: "cm", key: "none", optional: true } } },
        ],
        envFrom: [{ secretRef: { name: "s" }, prefix: "S_" }, { secretRef: { name: "s" } }, { configMapRef: { name: "none", optional: true } }],
      },
      { configMaps, secrets },
    );
    expect(env).toContain("C=$(A)");
    expect(env).toContain("S_p=w");
    expect(env).toContain("S_0=zero");
    expect(env.some((entry) => entry.startsWith("0="))).toBe(false); // no name for a variable
    expect(env.some((entry) => entry.startsWith("D="))).toBe(false);
  });

  it.each([
    [{ env: [{ name: "C", valueFrom: { configMapKeyRef: { name: "cm", key: "k" } } }] }, "ERR_KUBELET_UNRESOLVED"],
    [{ envFrom: [{ secretRef: { name: "s" } }] }, "ERR_KUBELET_UNRESOLVED"],
    [{ envFrom: [{}] }, "ERR_KUBELET_INVALID_POD"],
    [{ env: [{ name: "F", valueFrom: { fieldRef: { fieldPath: "status.phase" } } }] }, "ERR_KUBELET_UNSUPPORTED"],
    [{ env: [{ name: "F", valueFrom: {} }] }, "ERR_KUBELET_UNSUPPORTED"],
    [{ env: [{ name: "F", valueFrom: { resourceFieldRef: { resource: "limits.gpu" } } }] }, "ERR_KUBELET_UNSUPPORTED"],
    [{ env: [{ name: "F", valueFrom: { resourceFieldRef: { resource: "limits.cpu", containerName: "none" } } }] }, "ERR_KUBELET_UNRESOLVED"],
    [{ env: [{ name: "F", valueFrom: { resourceFieldRef: { resource: "limits.cpu", divisor: "x" } } }] }, "ERR_KUBELET_QUANTITY"],
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
    expect(() => processText({ name: "c", image: "i" }, { ...IMAGE, entrypoint: [""], cmd: [] }, new Map(), "h")).toThrow(
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
