import { PROFILES } from "@sealpod/agent";
import { messageOf } from "@sealpod/core";
import { AgentService, Health, HealthCheckResponse_ServingStatus, type Message } from "@sealpod/proto";
import { compile, type Policy } from "@sealpod/rego";
import { implement, memoryStreams, serveTtrpc, STATUS, statusError, type ByteStream } from "@sealpod/ttrpc";
import type { DiskOptions, Machine, MachineConfig, MachineExit, VmmDriver } from "@sealpod/vmm";

/** A verdict that changes the policy's state. */
type Verdict = { readonly allowed?: boolean; readonly ops?: Parameters<Policy["patchData"]>[0] } | boolean | null | undefined;

/** What the agent of a {@link PolicedDriver} does, by the name of the method. */
export type Answers = Readonly<Record<string, (request: Message) => object | Promise<object>>>;

/**
 * A driver whose machines have an agent that holds every request to its policy, as the real one does, and then does nothing but answer. Without a policy
 * of its own it denies all but SetPolicy.
 */
export class PolicedDriver implements VmmDriver {
  readonly name = "policed";
  readonly isolation = "vm";
  readonly configs: MachineConfig[] = [];
  /** Requests that were allowed. */
  readonly requests: Message[] = [];
  readonly disks: { readonly path: string; readonly readonly: boolean }[] = [];
  stopped = 0;
  readonly #profile: string;
  readonly #answers: Answers;
  #policy: Policy | undefined;
  #far: ByteStream | undefined;
  readonly #exited = Promise.withResolvers<MachineExit>();

  /** @param policy the agent's from the start: that of initdata */
  constructor(profile: "aks" | "coco", policy?: string, answers: Answers = {}) {
    this.#profile = profile;
    this.#answers = answers;
    if (policy !== undefined) this.#policy = this.#compile(policy);
  }

  async probe(): Promise<void> {}

  async start(config: MachineConfig): Promise<Machine> {
    this.configs.push(config);
    return {
      id: config.id,
      pid: 4711,
      guestNetwork: [],
      exited: this.#exited.promise,
      connectAgent: async () => this.#serve(),
      attachDisk: async (path: string, { readonly = true }: DiskOptions = {}) => ({
        source: `01/${(this.disks.push({ path, readonly }) + 1).toString(16).padStart(2, "0")}`,
      }),
      forwardPort: async (port) => port,
      stop: async () => {
        this.stopped++;
        this.die();
      },
    };
  }

  /** The machine ends. */
  die(): void {
    this.#far?.close();
    this.#exited.resolve({ kind: "stopped", exitCode: 0, signal: null });
  }

  /** Names of the requests so far. */
  get names(): readonly string[] {
    return this.requests.map((request) => request.$typeName.replace("grpc.", "").replace("Request", ""));
  }

  #compile(text: string): Policy {
    const policy = compile([{ name: "agent_policy", text }], PROFILES.get(this.#profile)?.rego ?? {});
    policy.setData({ pstate: {} });
    return policy;
  }

  #serve(): ByteStream {
    const [near, far] = memoryStreams();
    this.#far = far;
    const health = implement(Health, { check: () => ({ status: HealthCheckResponse_ServingStatus.SERVING }) });
    const agent = implement(AgentService, {}, async (method, request) => {
      const { localName, input: schema } = method;
      if (localName === "setPolicy" && this.#policy === undefined) this.#policy = this.#compile((request as Message & { readonly policy: string }).policy);
      else this.#judge(schema.typeName.replace("grpc.", ""), PROFILES.get(this.#profile)?.input(schema, request) ?? null);
      this.requests.push(request);
      return ((await this.#answers[localName]?.(request)) ?? {}) as Record<string, unknown>;
    });
    void serveTtrpc(far, [health, agent]);
    return near;
  }

  #judge(name: string, input: Parameters<Policy["evaluate"]>[1] extends infer O ? (O extends { readonly input?: infer I } ? I : never) : never): void {
    if (this.#policy === undefined) throw statusError(STATUS.permissionDenied, `${name} is blocked by policy: there is none`);
    let reasons = "";
    let verdict: Verdict;
    try {
      const { results, prints } = this.#policy.evaluate(`data.agent_policy.${name}`, { input });
      verdict = results[0]?.expressions[0] as Verdict;
      reasons = prints.join("\n");
    } catch (error) {
      reasons = messageOf(error);
    }
    if (verdict === true) return;
    if (typeof verdict !== "object" || verdict?.allowed !== true) throw statusError(STATUS.permissionDenied, `${name} is blocked by policy: ${reasons}`);
    this.#policy.patchData(verdict.ops ?? []);
  }
}
