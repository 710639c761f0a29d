import {
  AgentService,
  create,
  CreateSandboxRequestSchema,
  ExecProcessRequestSchema,
  SignalProcessRequestSchema,
  StartContainerRequestSchema,
  type DescMessage,
} from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import { validateIds } from "./ids.ts";
import { errorOf } from "./test-support.ts";

describe("ids", () => {
  it.each(["a".repeat(64), "a1", "A_b.c-d", "0-", "n".repeat(128)])("takes %j", (containerId) => {
    expect(() => validateIds(StartContainerRequestSchema, create(StartContainerRequestSchema, { containerId }))).not.toThrow();
  });

  it.each([
    "",
    "a",
    ".a",
    "-a",
    "_a",
    "..",
    "a/b",
    "a~1b",
    "a b",
    "a\n",
    "a\0b",
    "é1",
    "n".repeat(129),
    // Keys that known rules keep beside the ids (specs/rego.md 4.10), and directories of the agent.
    "namespace",
    "network_namespace",
    "sandbox_name",
    "sandbox",
    "shared",
  ])("refuses %j", async (containerId) => {
    expect((await errorOf(() => validateIds(StartContainerRequestSchema, create(StartContainerRequestSchema, { containerId })))).code).toBe("ERR_AGENT_ID");
  });

  it("checks the id of a process too, which may be empty", async () => {
    const signal = (execId: string): void => validateIds(SignalProcessRequestSchema, create(SignalProcessRequestSchema, { containerId: "c1", execId }));
    expect(() => signal("")).not.toThrow();
    expect((await errorOf(() => signal("../../x"))).code).toBe("ERR_AGENT_ID");
    expect((await errorOf(() => validateIds(ExecProcessRequestSchema, create(ExecProcessRequestSchema, { containerId: "c1", execId: "a/b" })))).code).toBe(
      "ERR_AGENT_ID",
    );
  });

  it("checks the id of the sandbox, for which no word is reserved", async () => {
    expect(() => validateIds(CreateSandboxRequestSchema, create(CreateSandboxRequestSchema, { sandboxId: "sandbox" }))).not.toThrow();
    expect((await errorOf(() => validateIds(CreateSandboxRequestSchema, create(CreateSandboxRequestSchema, { sandboxId: "a/b" })))).code).toBe("ERR_AGENT_ID");
  });

  it("knows every field of the API that holds an id", () => {
    const methods: readonly { readonly input: DescMessage }[] = AgentService.methods;
    const fields = new Set(methods.flatMap(({ input }) => input.fields.map(({ name }) => name)).filter((name) => /(^|_)id$/.test(name)));
    expect([...fields].sort()).toEqual(["container_id", "exec_id", "sandbox_id"]);
  });
});
