# Requests about containers that exist: what is started, and what is removed and may be created again.
package agent_policy

import rego.v1

# -- StartContainer: remembered if others have to wait for it

default StartContainerRequest := true

StartContainerRequest := {"allowed": true, "ops": [{
	"op": "add",
	"path": concat("/", ["/pstate", started_key(data.pstate[input.container_id])]),
	"value": true,
}]} if {
	uses_order
	exists(input.container_id)
}

uses_order if {
	some known in policy_data.containers
	count(object.get(known, "after", [])) > 0
}

order_kept if not uses_order

order_kept if {
	uses_order
	same("has to wait for", [other | some other in object.get(container, "after", []); not data.pstate[started_key(other)]], [])
}

started_key(number) := concat("-", ["started", format_int(number, 10)])

# -- RemoveContainer: of what does not exist there is nothing to remove, and the agent will say so

default RemoveContainerRequest := true

RemoveContainerRequest := {"allowed": true, "ops": [{
	"op": "remove",
	"path": concat("/", ["/pstate", input.container_id]),
}]} if exists(input.container_id)
