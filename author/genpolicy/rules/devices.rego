# CreateContainer: block devices and GPUs of the pod.
package agent_policy

import rego.v1

uses_devices if {
	some known in policy_data.containers
	count(object.get(known, "devices", [])) > 0
}

uses_devices if {
	some known in policy_data.containers
	count(object.get(known, ["OCI", "Linux", "Devices"], [])) > 0
}

devices_allowed if {
	not uses_devices
	same("devices", request.devices, [])
	same("OCI.Linux.Devices", request.OCI.Linux.Devices, [])
}

devices_allowed if {
	uses_devices
	same("devices", sort([found.container_path | some found in request.devices]), sort(array.concat(block_paths, gpus_asked)))
	every found in request.devices {
		device_allowed(found)
	}
	same(
		"OCI.Linux.Devices",
		{node.Path | some node in request.OCI.Linux.Devices} - {node.Path | some node in object.get(container.OCI.Linux, "Devices", [])},
		set(),
	)
	same("number of GPU annotations", count(gpu_annotations), count(gpus_wanted))
}

vfio_prefix := object.get(policy_data, ["devices", "vfio", "device_path"], "/dev/vfio/")

block_paths := [wanted.container_path | some wanted in object.get(container, "devices", []); not startswith(wanted.container_path, vfio_prefix)]

gpus_wanted := [wanted | some wanted in object.get(container, "devices", []); startswith(wanted.container_path, vfio_prefix)]

# Numbers that the CDI annotations give.
gpu_annotations := [trim_prefix(key, "cdi.k8s.io/vfio") | some key, _ in annotations; startswith(key, "cdi.k8s.io/vfio")]

# Either plugged in with the container, all that are announced, or there since the machine started.
gpus_asked := [concat("", [vfio_prefix, number]) | some number in gpu_annotations] if {
	some found in request.devices
	startswith(found.container_path, vfio_prefix)
}

else := []

device_allowed(found) if {
	found.container_path in block_paths
	not startswith(found.type_, "vfio")
}

else if {
	some wanted in gpus_wanted
	alike("devices.", found, wanted, {"type_": "", "vm_path": ""})
	same("devices.id", found.id, concat("", ["vfio", trim_prefix(found.container_path, vfio_prefix)]))
	count(found.options) > 0
	every option in found.options {
		fit("devices.options", option, `^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]=[0-9a-f]{2}/[0-9a-f]{2}$`)
	}
}

else := unlike("devices", found, object.get(container, "devices", []))
