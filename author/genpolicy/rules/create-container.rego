# CreateContainer: one container of the policy, once, in the pod that the pause container began.
package agent_policy

import rego.v1

default CreateContainerRequest := false

CreateContainerRequest := {"allowed": true, "ops": [
	{"op": "add", "path": "/pstate/sandbox", "value": sandbox},
	{"op": "add", "path": concat("/", ["/pstate", request.container_id]), "value": index},
]} if {
	one_of("container", container_name(annotations), container_names)

	# Ids become parts of paths, of patterns and of JSON pointers: 64 hex digits and nothing else.
	fit("container_id", request.container_id, hex_id)
	fit("sandbox id", sandbox.id, hex_id)
	same("sandbox", sandbox, object.get(data.pstate, "sandbox", first_sandbox))

	# A second one would share its volumes and its identity.
	same("exists already", [id | some id, known in data.pstate; true in [id == request.container_id, known == index]], [])
	order_kept

	# In the order of what a person would look at first.
	annotations_allowed
	alike("", request, container, {
		"OCI.Hooks": null,
		"OCI.Process.Terminal": false,
		"OCI.Root.Readonly": false,
		"OCI.Solaris": null,
		"OCI.Version": null,
		"OCI.Windows": null,
		"sandbox_pidns": false,
		"shared_mounts": [],
		"string_user": null,
	})
	arguments_allowed
	process_allowed
	alike("OCI.Process.Capabilities.", found_capabilities, wanted_capabilities, capability_sets)
	storages_allowed
	same("OCI.Root.Path", request.OCI.Root.Path, expand(container.OCI.Root.Path))
	mounts_allowed
	linux_allowed
	devices_allowed
}

hex_id := "^[0-9a-f]{64}$"

first_sandbox := sandbox if annotations["io.kubernetes.cri.container-type"] == "sandbox"

else := "the pause container first"

# The index is of the container that the request says it is; the checks then hold it to that.
index := [number | some number, name in container_names; name == container_name(annotations)][0]

container_names := [container_name(known.OCI.Annotations) | some known in policy_data.containers]

container_name(of) := [of["io.kubernetes.cri.container-type"], name_in(of)]
