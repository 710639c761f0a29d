# Who asks: the pod, and the policy container that a request is about.
#
# State, which the agent changes by the `ops` of an allowed request and only then (data.pstate):
#   "sandbox"         names of the pod, from its first container; all others must agree
#   container id      index into policy_data.containers of a container that exists
#   "started-<index>" true for a policy container that was started, if there are others that wait for any
package agent_policy

import rego.v1

# The agent of AKS wraps CreateContainer together with a map of its environment.
request := object.get(input, "base", input)

annotations := request.OCI.Annotations

process := request.OCI.Process

# Fields that not every policy has are read by object.get: to OPA a reference to what is nowhere in the text is an error.
container := policy_data.containers[index]

sandbox := {
	"id": annotations["io.kubernetes.cri.sandbox-id"],
	"name": annotations["io.kubernetes.cri.sandbox-name"],
	"namespace": annotations["io.kubernetes.cri.sandbox-namespace"],
	"uid": object.get(annotations, "io.kubernetes.cri.sandbox-uid", ""),
}

# What reasons begin with.
default subject := ""

subject := concat("", ["container ", shown(name_in(container.OCI.Annotations)), ": "])

name_in(of) := object.get(of, "io.kubernetes.cri.container-name", "pause")

exists(id) if is_number(data.pstate[id])

# The policy was made by another tool, or with that tool's settings: containers made with ours name their image.
is_foreign if not object.get(policy_data.containers[0], "image", false)

# … by the tool of AKS.
is_foreign_aks if {
	is_foreign
	not is_coco
}
