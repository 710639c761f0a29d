import { encodeUtf8, type JsonValue } from "@sealpod/core";
import { CopyFileRequestSchema, create, CreateContainerRequestSchema, type MessageInitShape, StartContainerRequestSchema } from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import { PolicyEngine } from "./policy.ts";
import { PROFILES, type Profile } from "./profile.ts";
import { errorOf } from "./test-support.ts";

function profile(name: string): Profile {
  const found = PROFILES.get(name);
  if (found === undefined) throw new Error(`no profile ${name}`);
  return found;
}

const coco = profile("coco");
const copied = (fields: MessageInitShape<typeof CopyFileRequestSchema>): JsonValue =>
  coco.input(CopyFileRequestSchema, create(CopyFileRequestSchema, { path: "/p", fileSize: 3n, dirMode: 0o755, uid: 1, gid: 2, offset: 1n, ...fields }));

describe("profile coco", () => {
  it("gives CreateContainer to the policy as it came", () => {
    const request = create(CreateContainerRequestSchema, { containerId: "c1", OCI: { Process: { Env: ["A=1", "A=2", "BARE"] } } });
    const input = coco.input(CreateContainerRequestSchema, request) as { container_id: string; OCI: { Process: { Env: string[] } }; stdin_port: number };
    expect(Object.keys(input)).toEqual(CreateContainerRequestSchema.fields.map(({ name }) => name));
    expect(input).toMatchObject({ container_id: "c1", stdin_port: 0, OCI: { Process: { Env: ["A=1", "A=2", "BARE"] } } });
  });

  it("tells of CopyFile the kind and the target, and no data", () => {
    const data = encodeUtf8("a/b");
    const rest = { path: "/p", file_size: 3, dir_mode: 0o755, uid: 1, gid: 2, offset: 1 };
    expect(copied({ data, fileMode: 0o100644 })).toEqual({ ...rest, file_mode: 0o100644, file_type: "Regular", symlink_target: null });
    expect(copied({ data, fileMode: 0o040755 })).toEqual({ ...rest, file_mode: 0o040755, file_type: "Directory", symlink_target: null });
    expect(copied({ data, fileMode: 0o120777 })).toEqual({ ...rest, file_mode: 0o120777, file_type: "Symlink", symlink_target: "a/b" });
  });

  it.each([
    ["a device", { fileMode: 0o020644 }],
    ["no kind", { fileMode: 0o644 }],
    ["a link whose target is not UTF-8", { fileMode: 0o120777, data: Uint8Array.of(0xff) }],
    ["a link without a target", { fileMode: 0o120777 }],
    ["a link with a NUL", { fileMode: 0o120777, data: encodeUtf8("a\0b") }],
  ])("refuses %s before the policy is asked", async (_what, fields) => {
    expect((await errorOf(() => copied(fields))).code).toBe("ERR_AGENT_REQUEST");
  });

  it("reads policies as Rego v0, or as v1 where they say so", () => {
    const request = coco.input(StartContainerRequestSchema, create(StartContainerRequestSchema, { containerId: "c1" }));
    for (const text of [
      'package agent_policy\nimport future.keywords.if\nStartContainerRequest { input.container_id == "c1" }\n',
      'package agent_policy\nimport rego.v1\nStartContainerRequest if input.container_id == "c1"\n',
    ]) {
      expect(new PolicyEngine({ name: "p", text }, coco.rego).decide("StartContainerRequest", request).allowed, text).toBe(true);
    }
  });

  it("takes its policy from initdata, aks by SetPolicy", () => {
    expect([...PROFILES.values()].map(({ name, initdata }) => [name, initdata])).toEqual([
      ["aks", false],
      ["coco", true],
    ]);
  });
});
