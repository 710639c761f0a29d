import { parseArgs } from "node:util";
import type { LogLevel } from "@sealpod/core";
import { AgentError } from "./errors.ts";
import type { AgentPlace } from "./index.ts";
import { type ListenAddress, parseListenAddress } from "./listen-address.ts";
import { type Profile, PROFILES } from "./profile.ts";
import type { ReportKind } from "./reports.ts";

const LOG_LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error"];
const PLACES: readonly AgentPlace[] = ["process", "vm"];
const REPORTS: readonly ReportKind[] = ["directory", "channel", "hardware"];

/** Where the guest information is, for containers too, and the disks of an agent that is a process. */
const GUEST_INFO = "/run/sealpod";
const DEVICES = "/run/sealpod-devices";

/** What an agent is told when it is started. */
export interface AgentSettings {
  readonly listen: ListenAddress;
  readonly place: AgentPlace;
  /** Directory of disks, for an agent that is a process; one in a virtual machine finds its own. */
  readonly devices: string;
  readonly guestInfo: string;
  readonly reports: ReportKind;
  readonly profile: Profile;
  readonly policyFile: string | undefined;
  readonly logLevel: LogLevel;
  /** Descriptor that gets a line when the agent listens. */
  readonly readyFd: number | undefined;
}

/**
 * Reads arguments, with the environment variables of the known agent as their defaults (specs/runtime.md 4.4). In a virtual machine they come from the
 * measured root; the kernel's command line says nothing to the agent.
 * @throws {AgentError} ERR_AGENT_CONFIG
 */
export function parseSettings(args: readonly string[], env: Readonly<Record<string, string | undefined>>): AgentSettings {
  const values = parsed(args);
  const place = oneOf("machine", values.machine, PLACES);
  const listen = values.listen ?? env["KATA_AGENT_SERVER_ADDR"];
  if (listen === undefined) throw new AgentError("ERR_AGENT_CONFIG", "--listen is needed");
  const profile = PROFILES.get(values.profile);
  if (profile === undefined) throw wrong("profile", values.profile, [...PROFILES.keys()]);
  const readyFd = values["ready-fd"];
  if (readyFd !== undefined && !/^[0-9]{1,4}$/.test(readyFd)) throw new AgentError("ERR_AGENT_CONFIG", "--ready-fd is not a number");
  return {
    listen: parseListenAddress(listen),
    place,
    devices: values.devices,
    guestInfo: values["guest-info"],
    reports: oneOf("reports", values.reports ?? (place === "vm" ? "hardware" : "directory"), REPORTS),
    profile,
    policyFile: values["default-policy"] ?? env["KATA_AGENT_POLICY_FILE"],
    logLevel: oneOf("log-level", values["log-level"], LOG_LEVELS),
    readyFd: readyFd === undefined ? undefined : Number(readyFd),
  };
}

// eslint-disable-next-line typescript/explicit-function-return-type -- the type is that of the table below
const parsed = (args: readonly string[]) =>
  parseArgs({
    args: [...args],
    options: {
      listen: { type: "string" },
      machine: { type: "string", default: "process" },
      devices: { type: "string", default: DEVICES },
      "guest-info": { type: "string", default: GUEST_INFO },
      reports: { type: "string" },
      "ready-fd": { type: "string" },
      "default-policy": { type: "string" },
      profile: { type: "string", default: "aks" },
      "log-level": { type: "string", default: "info" },
    },
  }).values;

function oneOf<T extends string>(name: string, text: string, values: readonly T[]): T {
  const found = values.find((value) => value === text);
  if (found === undefined) throw wrong(name, text, values);
  return found;
}

function wrong(name: string, found: string, expected: readonly string[]): AgentError {
  return new AgentError("ERR_AGENT_CONFIG", `--${name}: found ${found}, expected one of ${expected.join(", ")}`);
}
