import { type Fields, listOf, object, type Read } from "./fields.ts";
import { HANDLERS, PROBE_FIELDS } from "./tolerated.ts";
import { text } from "./values.ts";

/** The command of an `exec` handler; empty for the others, which the kubelet runs from outside of the guest. */
type Command = readonly string[];

const execCommand: Read<Command> = object((fields) => fields.required("command", listOf(text), []));

const HANDLER_NAMES = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

function handlerOf(fields: Fields, names: readonly string[]): Command {
  const written = HANDLER_NAMES.filter((name) => names.includes(name) && fields.find(name) !== undefined);
  fields.check(Object.fromEntries(Object.entries(HANDLERS).filter(([name]) => names.includes(name))));
  const command = fields.optional("exec", execCommand) ?? [];
  if (written.length > 1) fields.cursor.refuse("bad-value", `more than one handler: ${written.join(", ")}`);
  if (written.length === 0) fields.cursor.refuse("missing-field", `no handler: expected one of ${names.join(", ")}`);
  return command;
}

/** core/v1 Probe: its command. */
export const probe: Read<Command> = object((fields) => {
  fields.check(PROBE_FIELDS);
  return handlerOf(fields, ["exec", "httpGet", "tcpSocket", "grpc"]);
});

const hook: Read<Command> = object((fields) => handlerOf(fields, ["exec", "httpGet", "tcpSocket", "sleep"]));

/** core/v1 Lifecycle: the commands of its hooks, and the signal that stops the container. */
export const lifecycle: Read<{ readonly commands: readonly Command[]; readonly stopSignal?: string | undefined }> = object((fields) => ({
  commands: [fields.optional("postStart", hook) ?? [], fields.optional("preStop", hook) ?? []],
  stopSignal: fields.optional("stopSignal", text),
}));
