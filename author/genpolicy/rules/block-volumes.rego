# CreateContainer: an emptyDir that is a disk of its own, encrypted by the guest with a key that nobody else has.
package agent_policy

import rego.v1

uses_block_volumes if {
	some known in policy_data.containers
	some storage in known.storages
	storage.driver == ""
}

live_storage(_, storage) := object.union(storage, {
	"driver": "^(?:blk|scsi)$",
	"mount_point": expand(storage.mount_point),
	"source": volume_device,
}) if storage.driver == ""

volume_device := `^(?:[0-9a-f]{2}(?:/[0-9a-f]{2})?|[0-9]+:[0-9]+)$`

mounted_at(storage, wanted) if {
	uses_block_volumes
	contains(wanted.mount_point, "$(b64_device_id)")
	storage.mount_point == replace(wanted.mount_point, "$(b64_device_id)", base64url.encode(storage.source))
}

# Which disk is which volume nobody can say; but each volume has one, and no other has it.
source_fits(found, "") if {
	uses_block_volumes
	some storage in request.storages
	storage.mount_point == found
	startswith(found, expand("$(spath)/"))
}

volumes_overlap if {
	uses_block_volumes
	some number, mount in request.OCI.Mounts
	some other, another in request.OCI.Mounts
	number < other
	mount.source == another.source
	startswith(mount.source, expand("$(spath)/"))
	print(subject, "OCI.Mounts: the same disk at", mount.destination, "and", another.destination)
}
