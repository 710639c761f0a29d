# CreateContainer: mounts.
package agent_policy

import rego.v1

mounts_allowed if {
	every mount in request.OCI.Mounts {
		mount_allowed(mount)
	}

	# Of two mounts at one place the second hides the first.
	destinations := {mount.destination | some mount in request.OCI.Mounts}
	same("number of destinations in OCI.Mounts", count(destinations), count(request.OCI.Mounts))

	# What the host supplies may be left out; what the guest makes may not.
	needed := {mount.destination | some mount in container.OCI.Mounts; not startswith(mount.source, "$(sfprefix)")}
	same("missing in OCI.Mounts", needed - destinations, set())
	not volumes_overlap
}

mount_allowed(mount) if {
	some wanted in container.OCI.Mounts
	mount.destination == wanted.destination
	mount.type_ == wanted.type_
	options_fit(mount, wanted)
	source_fits(mount.source, wanted.source)
}

else := unlike("mount", mount, [known | some known in container.OCI.Mounts; known.destination == mount.destination])

options_fit(mount, wanted) if mount.options == wanted.options

source_fits(found, wanted) if {
	wanted != ""
	fits(found, expand(wanted))
}
