import type { JsonObject } from "@sealpod/core";
import type { LinuxSeccomp } from "@sealpod/proto";
import { shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

/** What may be done with a system call. Not SCMP_ACT_NOTIFY and SCMP_ACT_TRACE: nobody would be there to answer. */
const ACTIONS: ReadonlySet<string> = new Set([
  "SCMP_ACT_KILL",
  "SCMP_ACT_KILL_PROCESS",
  "SCMP_ACT_KILL_THREAD",
  "SCMP_ACT_TRAP",
  "SCMP_ACT_ERRNO",
  "SCMP_ACT_ALLOW",
  "SCMP_ACT_LOG",
]);

/** Those that this guest's kernel can run; a filter may name others beside them, for images of several machines. */
const ARCHITECTURE = /^SCMP_ARCH_[A-Z0-9_]{2,32}$/;

const FLAGS: ReadonlySet<string> = new Set(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]);

const OPERATORS: ReadonlySet<string> = new Set([
  "SCMP_CMP_NE",
  "SCMP_CMP_LT",
  "SCMP_CMP_LE",
  "SCMP_CMP_EQ",
  "SCMP_CMP_GE",
  "SCMP_CMP_GT",
  "SCMP_CMP_MASKED_EQ",
]);

const SYSTEM_CALL = /^[a-z0-9_]{1,64}$/;

/** Arguments of a system call. */
const MAX_ARGUMENT = 5n;
/** Largest error number of Linux. */
const MAX_ERRNO = 4095;
/** Names in all rules: there are about 450 system calls, and profiles name some of them several times. */
const MAX_NAMES = 4096;

/**
 * A seccomp profile as the runtime takes it (OCI runtime specification, `linux.seccomp`). What is not known is refused: left out, it would
 * allow more, or less, than the policy has read.
 * @throws {AgentError} ERR_AGENT_REQUEST
 */
export function runtimeSeccomp(seccomp: LinuxSeccomp): JsonObject {
  const { DefaultAction, Architectures, Flags, Syscalls } = seccomp;
  let names = 0;
  const syscalls = Syscalls.map(({ Names, Action, ErrnoRet, Args }) => {
    names += Names.length;
    if (names > MAX_NAMES) throw refused(`more than ${MAX_NAMES} names of system calls`);
    if (Names.length === 0) throw refused("a rule without a system call");
    const errno = ErrnoRet.case === undefined ? undefined : ErrnoRet.value;
    // 0 would tell the program that a call has worked which was not made: a failed setuid() for instance.
    if (errno !== undefined && (errno < 1 || errno > MAX_ERRNO || Action !== "SCMP_ACT_ERRNO")) throw refused(`error number ${errno} with ${shown(Action)}`);
    return {
      names: Names.map((name) => known("system call", name, SYSTEM_CALL)),
      action: known("action", Action, ACTIONS),
      ...(errno === undefined ? {} : { errnoRet: errno }),
      ...(Args.length === 0
        ? {}
        : {
            args: Args.map(({ Index, Value, ValueTwo, Op }) => {
              if (Index > MAX_ARGUMENT) throw refused(`argument ${Index}: a system call has six, counted from 0`);
              return { index: Index, value: Value, valueTwo: ValueTwo, op: known("operator", Op, OPERATORS) };
            }),
          }),
    };
  });
  return {
    defaultAction: known("default action", DefaultAction, ACTIONS),
    ...(Architectures.length === 0 ? {} : { architectures: Architectures.map((name) => known("architecture", name, ARCHITECTURE)) }),
    ...(Flags.length === 0 ? {} : { flags: Flags.map((name) => known("flag", name, FLAGS)) }),
    ...(syscalls.length === 0 ? {} : { syscalls }),
  };
}

function known(what: string, name: string, names: ReadonlySet<string> | RegExp): string {
  if (!(names instanceof RegExp ? names.test(name) : names.has(name))) throw refused(`${what} ${shown(name)} is not known`);
  return name;
}

function refused(problem: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", `OCI.Linux.Seccomp: ${problem}`);
}
