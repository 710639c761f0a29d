/** Facts of a step or refusal, in the order in which they are shown. Never secrets, but the demo's own key, which the document prints. */
export type Facts = Readonly<Record<string, string>>;

/** One step of the walk. */
export interface StepResult {
  readonly kind: "step";
  readonly name: string;
  /** What was done, for people. */
  readonly title: string;
  /** The command that does the same alone. */
  readonly command: string;
  readonly ok: boolean;
  /** Milliseconds of wall time. */
  readonly milliseconds: number;
  readonly facts: Facts;
  /** What went wrong, if it did. */
  readonly problem?: string;
}

/** Who has to refuse an attack. */
export type Refuser = "agent" | "attestation" | "key vault";

/** One attack and what came of it. */
export interface RefusalResult {
  readonly kind: "refusal";
  readonly name: string;
  readonly title: string;
  readonly command: string;
  /** Who is expected to refuse. */
  readonly refuser: Refuser;
  /** True only if the expected party refused for the expected reason, and the same request without the attack was not refused. */
  readonly ok: boolean;
  readonly milliseconds: number;
  /** The reason that the attacker (here: the user) is given, or what happened instead. */
  readonly reason: string;
  readonly facts: Facts;
}

/** The whole demo as data: what `--json` prints. */
export interface DemoResult {
  /** What was emulated, said plainly. */
  readonly emulated: readonly string[];
  readonly steps: readonly StepResult[];
  readonly refusals: readonly RefusalResult[];
  /** True only if every step and every refusal came out as said. */
  readonly ok: boolean;
  readonly milliseconds: number;
  /** Directory of the kept artefacts. */
  readonly kept?: string;
}

/** What this machine lacks and Sealpod stands in for. */
export const EMULATED: readonly string[] = [
  "The security processor is an emulator: its keys lie in a file, and its reports prove nothing about hardware.",
  "The sandbox's memory is not encrypted, in a virtual machine or without one: root on this machine can read everything in it.",
];
