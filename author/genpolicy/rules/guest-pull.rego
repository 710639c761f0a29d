# CreateContainer: an image that the guest pulls by itself, for a container whose policy has no layers. Only by the digest of its manifest.
package agent_policy

import rego.v1

uses_guest_pull if {
	some known in policy_data.containers
	not has_layers(known)
}

has_layers(known) if {
	some storage in known.storages
	storage.driver == "overlayfs"
}

pulled_images := [] if not uses_guest_pull

pulled_images := [] if {
	uses_guest_pull
	has_layers(container)
}

# Without such a storage this is undefined, and so is the request: no container has a root that nobody vouches for.
pulled_images := [{
	"driver": "image_guest_pull",
	"driver_options": storage.driver_options,
	"fs_group": null,
	"fstype": "overlay",
	"mount_point": expand(container.OCI.Root.Path),
	"options": [],
	"shared": false,
	"source": pulled_source(metadata),
}] if {
	uses_guest_pull
	not has_layers(container)
	storage := [found | some found in request.storages; found.driver == "image_guest_pull"][0]
	metadata := pull_metadata(storage.driver_options)

	# The agent takes annotations from here again: no others than those that were checked.
	every key, value in metadata {
		value == annotations[key]
	}
}

pull_metadata(options) := {} if options == []

pull_metadata(options) := json.unmarshal(trim_prefix(options[0], "image_guest_pull=")).metadata if count(options) == 1

# For the pause container the agent takes the program of its own, measured image.
pulled_source(metadata) := "pause" if metadata["io.kubernetes.cri.container-type"] == "sandbox"

else := concat("", ["^[^@]+@", image_digest])

image_digest := object.get(container, ["image", "manifest_digest"], "none") if not is_foreign

# A tool that writes no digests may have got one in the manifest.
image_digest := split(object.get(container.OCI.Annotations, "io.kubernetes.cri.image-name", ""), "@")[1] if is_foreign
