# CreateContainer: what the guest's kernel is told.
package agent_policy

import rego.v1

linux_allowed if {
	spaces := sort([space | some space in request.OCI.Linux.Namespaces; not namespace_ignored(space)])
	same("OCI.Linux.Namespaces", spaces, sort(container.OCI.Linux.Namespaces))
	same("missing in OCI.Linux.MaskedPaths", masked(container.OCI.Linux) - masked(request.OCI.Linux), set())
	same("missing in OCI.Linux.ReadonlyPaths", protected(container.OCI.Linux) - protected(request.OCI.Linux), set())

	# Other versions of containerd hide more of the kernel. To hide a file of the image would change the program.
	hidden := protected(request.OCI.Linux) - protected(container.OCI.Linux)
	same("OCI.Linux.MaskedPaths", {path | some path in hidden; not regex.match(`^/(?:proc|sys)/[^.]*$`, path)}, set())
	every name, value in request.OCI.Linux.Sysctl {
		sysctl_allowed(name, value)
	}
	alike("OCI.Linux.", request.OCI.Linux, {}, {
		"GIDMappings": [],
		"IntelRdt": null,
		"MountLabel": "",
		"Resources.BlockIO": null,
		"Resources.Devices": [],
		"Resources.Network": null,
		"Resources.Pids": null,
		"RootfsPropagation": "",
		"Seccomp": null,
		"UIDMappings": [],
	})
}

masked(linux) := {path | some path in linux.MaskedPaths}

protected(linux) := masked(linux) | {path | some path in linux.ReadonlyPaths}

sysctl_allowed(name, value) if sysctl_known(name, value)

else := unlike("OCI.Linux.Sysctl", {name: value}, object.get(container.OCI.Linux, "Sysctl", {}))

sysctl_known(name, value) if object.get(container.OCI.Linux, ["Sysctl", name], null) == value
