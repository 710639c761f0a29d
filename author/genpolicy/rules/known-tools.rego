# What the known tools, with their settings, leave open or write in another way.
package agent_policy

import rego.v1

# -- arguments and environment: a $ may be just that

text_fits(found, wanted) if {
	is_foreign
	found == wanted
}

variable_known(variable) if {
	is_foreign
	variable in variables
}

text_pattern(text) := concat("", ["^", pattern, "$"]) if {
	is_foreign
	pattern := strings.replace_n(forms, literal(text))
	contains(pattern, `\$`)
}

# They take no notice of `hostname` in a manifest.
forms[`\$\(host-name\)`] := dns_name if is_foreign

# A field reference to an annotation that the manifest does not have.
forms[`\$\(todo-annotation\)`] := "[^=]*" if is_foreign

annotation_known("io.kubernetes.cri.sandbox-name", value) if {
	container.OCI.Annotations["io.kubernetes.cri.sandbox-name"] == "$(generated-name)"
	regex.match(concat("", ["^", dns_name, "$"]), value)
}

# -- what containerd sets by itself; both loosen nothing outside the pod's VM

sysctl_known("net.ipv4.ip_unprivileged_port_start", "0") if is_foreign_aks

sysctl_known("net.ipv4.ping_group_range", "0 2147483647") if is_foreign_aks

# -- commands of probes and hooks, joined by spaces

command_known(command) if {
	is_foreign_aks
	command == concat(" ", process.Args)
}
