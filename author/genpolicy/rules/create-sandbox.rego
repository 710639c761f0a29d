# CreateSandbox
package agent_policy

import rego.v1

default CreateSandboxRequest := false

CreateSandboxRequest if {
	# The agent clears its directories when it makes a sandbox: not under containers that exist.
	same("the sandbox exists already", [id | some id, _ in data.pstate], [])
	alike("sandbox: ", input, {}, {"guest_hook_path": "", "kernel_modules": [], "sandbox_pidns": false})
	every storage in input.storages {
		sandbox_storage_allowed(storage)
	}
	same("sandbox: number of storages", count(input.storages), count({storage.mount_point | some storage in input.storages}))
}

sandbox_storage_allowed(storage) if {
	some wanted in policy_data.sandbox.storages
	storage == object.union({"driver_options": [], "fs_group": null, "options": [], "shared": false}, wanted)
}

else := unlike("sandbox: storage", storage, policy_data.sandbox.storages)
