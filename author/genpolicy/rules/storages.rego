# CreateContainer: storages. They are the image's layers, each bound to a dm-verity root hash, the overlay of them, and volumes.
package agent_policy

import rego.v1

# One to one: the storages of the request are those of the policy, none missing and none twice.
storages_allowed if {
	same("number of storages", count(request.storages), count(live_storages))
	every storage in request.storages {
		storage_allowed(concat("", ["storage at ", shown(storage.mount_point), ": "]), storage, live_storages[place(storage)])
	}
	same(
		"storages by their number in the policy",
		sort([places(storage) | some storage in request.storages]),
		sort([[other | some other, candidate in live_storages; candidate == storage] | some storage in live_storages]),
	)
}

storage_allowed(what, storage, wanted) if {
	alike(what, storage, wanted, {"driver_options": [], "fs_group": null, "fstype": "", "options": [], "shared": false})
	fit(concat("", [what, "driver"]), storage.driver, wanted.driver)
	fit(concat("", [what, "source"]), storage.source, wanted.source)
}

place(storage) := numbers[0] if numbers := places(storage)

else := unlike("storage at", storage.mount_point, [wanted.mount_point | some wanted in live_storages])

# Numbers of the policy's storages that belong at this mount point.
places(storage) := [number | some number, wanted in live_storages; mounted_at(storage, wanted)]

mounted_at(storage, wanted) if fits(storage.mount_point, wanted.mount_point)

# The policy's storages as this request has to give them.
live_storages := array.concat(pulled_images, [live | some number, storage in container.storages; live := live_storage(number, storage)])

# A layer: a device that the host attached (slot, PCI path or address; never a path of the guest), read-only.
live_storage(number, storage) := object.union(storage, {
	"mount_point": concat("", ["/run/kata-containers/sandbox/layers/", layer_ids[number]]),
	"options": layer_options(number),
	"source": device,
}) if storage.driver == "blk"

live_storage(_, storage) := object.union(storage, {
	"mount_point": expand(storage.mount_point),
	"options": array.concat(
		["io.katacontainers.fs-opt.layer-src-prefix=/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers"],
		array.concat(overlay_layers, ["io.katacontainers.fs-opt.overlay-rw", concat("", ["lowerdir=", overlay.options[0]])]),
	),
	"source": "none",
}) if storage.driver == "overlayfs"

live_storage(_, storage) := object.union(storage, {
	"mount_point": expand(storage.mount_point),
	"source": expand(storage.source),
}) if {
	uses_volumes
	not storage.driver in {"", "blk", "overlayfs"}
}

uses_volumes if {
	some known in policy_data.containers
	some storage in known.storages
	not storage.driver in {"", "blk", "overlayfs"}
}

device := `^(?:[0-9a-f]{2}(?:\.[0-7])?(?:/[0-9a-f]{2}(?:\.[0-7])?){0,2}|[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])$`

# Its options are the ids and the root hashes of the layers, top first.
overlay := [storage | some storage in container.storages; storage.driver == "overlayfs"][0]

overlay_layers := [concat("", ["io.katacontainers.fs-opt.layer=", base64.encode(concat(",", layer))]) |
	some number, id in layer_ids
	layer := array.concat([id, container.storages[number].fstype], layer_options(number))
]

layer_ids := split(overlay.options[0], ":")

layer_options(number) := [
	"ro",
	"io.katacontainers.fs-opt.block_device=file",
	"io.katacontainers.fs-opt.is-layer",
	concat("", ["io.katacontainers.fs-opt.root-hash=", split(overlay.options[1], ":")[number]]),
]
