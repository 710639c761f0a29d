# CreateContainer and ExecProcess: user and environment; CreateContainer: arguments and capabilities.
package agent_policy

import rego.v1

process_allowed if {
	alike("process.", process, container.OCI.Process, process_fields)
	groups_allowed
	every variable in process.Env {
		variable_allowed(variable)
	}

	# With two values for a name the last one wins in the guest, whatever was checked of the first.
	names := {variable_name(variable) | some variable in process.Env}
	same("number of names in process.Env", count(names), count(process.Env))
	same("missing in process.Env", variable_names - names, set())
}

process_fields := {"Cwd": "", "NoNewPrivileges": false, "SelinuxLabel": "", "User.UID": 0, "User.Username": ""} if is_foreign_aks

else := {"Cwd": "", "NoNewPrivileges": false, "SelinuxLabel": "", "User.GID": 0, "User.UID": 0, "User.Username": ""}

groups_allowed if is_foreign_aks

groups_allowed if {
	not is_foreign_aks
	groups := {group | some group in container.OCI.Process.User.AdditionalGids}
	same("process.User.AdditionalGids", {group | some group in process.User.AdditionalGids}, groups)
}

# -- environment

variables := array.concat(object.get(container.OCI.Process, "Env", []), terminal_variables)

default terminal_variables := []

variable_names := {variable_name(variable) | some variable in variables}

variable_name(variable) := split(variable, "=")[0]

variable_allowed(variable) if variable_known(variable)

else := unlike("process.Env", variable, [known | some known in variables; variable_name(known) == variable_name(variable)])

variable_known(variable) if {
	variable in variables
	not contains(variable, "$")
}

variable_known(variable) if {
	some pattern in live_variables
	regex.match(pattern, variable)
}

# Of a secret the policy holds the hash of the whole variable.
variable_known(variable) if {
	some secret in secrets
	secret == concat("", [variable_name(variable), "=$(sha256:", crypto.sha256(variable), ")"])
}

live_variables := [text_pattern(variable) | some variable in variables; contains(variable, "$")]

secrets := [variable | some variable in variables; contains(variable, "$(sha256:")]

# What Kubernetes adds by itself; never for a variable of the pod.
variable_known(variable) if {
	not variable_name(variable) in variable_names
	some pattern in variable_patterns
	regex.match(pattern, variable)
}

# Eight in one: fewer are slower, more may be larger than an engine takes.
variable_patterns := [strings.replace_n(common_texts, concat("", ["^(?:", concat("|", array.slice(patterns, first, first + 8)), ")$"])) |
	patterns := policy_data.request_defaults.CreateContainerRequest.allow_env_regex
	some first, _ in patterns
	first % 8 == 0
]

# -- arguments

arguments_allowed if {
	count(process.Args) == count(arguments)
	every number, argument in arguments {
		text_fits(process.Args[number], argument)
	}
}

else := unlike("process.Args", process.Args, arguments)

arguments := object.get(container.OCI.Process, "Args", [])

# -- capabilities, as sets. Without a list the guest would leave all of them, so none may be missing.

capability_sets := {"Ambient": [], "Bounding": [], "Effective": [], "Inheritable": [], "Permitted": []}

found_capabilities := {kind: sort(list) | some kind, list in process.Capabilities}

wanted_capabilities := {kind: sort({capability | some name in list; some capability in object.get(common_lists, name, [name])}) |
	some kind, list in container.OCI.Process.Capabilities
}

common_lists := {concat("", ["$(", name, ")"]): list | some name, list in policy_data.common; is_array(list)}
