# ExecProcess: the commands of probes and lifecycle hooks, each in its own container alone, and those of the settings; as the container's user,
# in its directory, with its environment.
package agent_policy

import rego.v1

default ExecProcessRequest := false

ExecProcessRequest if {
	not uses_exec
	unlike("exec", input.process.Args, [])
}

ExecProcessRequest if {
	uses_exec
	container_known(input.container_id)
	command_allowed
	alike("", input, {}, {"process.ApparmorProfile": "", "process.Capabilities": null, "string_user": null})
	process_allowed
}

uses_exec if {
	some known in policy_data.containers
	count(known.exec_commands) > 0
}

uses_exec if {
	some key in ["allowed_commands", "commands", "regex"]
	count(policy_data.request_defaults.ExecProcessRequest[key]) > 0
}

container_known(id) if exists(id)

else := refuse(concat("", ["exec: container ", shown(id), " does not exist"]))

index := data.pstate[input.container_id] if {
	uses_exec
	is_object(input.process)
	exists(input.container_id)
}

process := input.process if uses_exec

sandbox := data.pstate.sandbox if {
	uses_exec
	is_object(input.process)
}

# containerd adds this variable for a terminal.
terminal_variables := ["TERM=xterm"] if {
	uses_exec
	input.process.Terminal == true
}

command_allowed if {
	some command in container.exec_commands
	command_known(command)
	process.Terminal == object.get(container.OCI.Process, "Terminal", false)
}

else if {
	some key in ["allowed_commands", "commands"]
	some command in policy_data.request_defaults.ExecProcessRequest[key]
	command_known(command)
}

else if {
	some pattern in policy_data.request_defaults.ExecProcessRequest.regex
	regex.match(concat("", ["^(?:", pattern, ")$"]), concat(" ", process.Args))
}

else := unlike("exec", process.Args, container.exec_commands)

command_known(command) if command == process.Args
