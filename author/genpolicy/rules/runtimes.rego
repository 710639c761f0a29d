# Profile coco: what its runtimes write in more than one way.
package agent_policy

import rego.v1

# Its policies have a section more.
is_coco if object.get(policy_data, "cluster_config", false)

# The guest's network is the pod's, and cgroups are the agent's: to name them again changes nothing.
namespace_ignored(space) if {
	is_coco
	space.Type == "network"
	regex.match("^(?:/run/netns/[a-z0-9]+)?$", space.Path)
}

namespace_ignored(space) if {
	is_coco
	space == {"Type": "cgroup", "Path": ""}
}

# Newer kernels add options to the mount of cgroups.
options_fit(mount, wanted) if {
	is_coco
	mount.type_ == "cgroup"
	allowed := {option | some option in object.get(policy_data, ["cluster_config", "cgroup_mount_extras_allowed"], [])}
	{option | some option in mount.options} - allowed == {option | some option in wanted.options}
}

# Older versions of containerd mount it read-only in pods with privileges too.
options_fit(mount, wanted) if {
	is_coco
	mount.type_ == "sysfs"
	"ro" in mount.options
	{option | some option in mount.options} - {"ro"} == {option | some option in wanted.options} - {"rw"}
}
