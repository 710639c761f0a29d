import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseUp, readUp, writeUp, type Up } from "./up.ts";

const UP: Up = {
  version: 1,
  pid: process.pid,
  startedAt: 1_795_000_000_000,
  state: "/state",
  domain: "sealpod.internal",
  host: "127.0.0.1",
  port: 8443,
  caCertificate: "-----BEGIN CERTIFICATE-----\n",
  endpoints: {
    attestation: "attest.sealpod.internal:8443",
    keyvault: "kv.vault.sealpod.internal:8443",
    kbs: "kbs.sealpod.internal:8443",
    vault: "demo.vault.sealpod.internal:8443",
    authority: "https://login.sealpod.internal:8443",
    issuer: "https://login.sealpod.internal:8443/oidc/laptop/",
  },
  sockets: { psp: "/state/psp.sock", kube: "/state/kube.sock" },
  tenantId: "t",
  owner: { clientId: "o", clientSecret: "s" },
  workload: { clientId: "w", subject: "system:serviceaccount:default:workload-identity-sa" },
};

describe("up.json", () => {
  it("comes back as it was written", async () => {
    const state = await mkdtemp(join(tmpdir(), "sealpod-up-"));
    try {
      await writeUp({ ...UP, state });
      expect(await readUp(state)).toEqual({ ...UP, state });
    } finally {
      await rm(state, { recursive: true, force: true });
    }
  });

  const members = ["pid", "state", "caCertificate", "endpoints", "sockets", "tenantId", "owner", "workload", "port", "version"] as const;
  it.each(members)("is refused without %s", (name) => {
    const { [name]: _dropped, ...rest } = UP;
    expect(() => parseUp(JSON.stringify(rest), "up.json")).toThrow(expect.objectContaining({ code: "ERR_SERVICES_STATE" }));
  });

  it.each(["", "{", "[]", "null", '{"version":2}', JSON.stringify({ ...UP, pid: "1" }), JSON.stringify({ ...UP, pid: -1 }), `${JSON.stringify(UP)}x`])(
    "is refused as %j",
    (text) => {
      expect(() => parseUp(text, "up.json")).toThrow(expect.objectContaining({ code: "ERR_SERVICES_STATE", hint: expect.stringContaining("sealpod up") }));
    },
  );

  it("says that nothing runs where there is no file", async () => {
    await expect(readUp("/nonexistent")).rejects.toMatchObject({ code: "ERR_SERVICES_NOT_RUNNING", hint: expect.stringContaining("sealpod up") });
  });

  it("does not take process 0 for a living one", async () => {
    const state = await mkdtemp(join(tmpdir(), "sealpod-up-"));
    try {
      await writeFile(join(state, "up.json"), JSON.stringify({ ...UP, state, pid: 0 }));
      await expect(readUp(state)).rejects.toMatchObject({ code: "ERR_SERVICES_NOT_RUNNING" });
    } finally {
      await rm(state, { recursive: true, force: true });
    }
  });
});
