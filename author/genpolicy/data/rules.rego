# The policy of a confidential pod, profile aks: what the host may ask of the agent inside the pod's VM.
#
# The host is the adversary. Every check is written as "true only if"; a field that is missing makes a check undefined, and
# undefined refuses. A refusal prints one line: what, what was found, what the policy allows. `policy_data`, at the end of this
# text, describes the pod; docs/policy.md of sealpod says the same in plain words.
package agent_policy

import rego.v1

# ---------------------------------------------------------------------------------------------------------------------------
# Requests that are decided by their name

default AllowRequestsFailingPolicy := false

default DestroySandboxRequest := true

default GetOOMEventRequest := true

default GuestDetailsRequest := true

default OnlineCPUMemRequest := true

default RemoveStaleVirtiofsShareMountsRequest := true

default SignalProcessRequest := true

default StartContainerRequest := true

default StatsContainerRequest := true

default TtyWinResizeRequest := true

default WaitProcessRequest := true

default AddARPNeighborsRequest := false

default AddSwapPathRequest := false

default AddSwapRequest := false

default GetDiagnosticDataRequest := false

default GetIPTablesRequest := false

default GetMetricsRequest := false

default ListInterfacesRequest := false

default ListRoutesRequest := false

default MemAgentCompactConfig := false

default MemAgentMemcgConfig := false

default MemHotplugByProbeRequest := false

default PauseContainerRequest := false

default PullImageRequest := false

default ReseedRandomDevRequest := false

default ResizeVolumeRequest := false

default ResumeContainerRequest := false

default SetGuestDateTimeRequest := false

default SetIPTablesRequest := false

default StartTracingRequest := false

default StopTracingRequest := false

default UpdateContainerRequest := false

default VolumeStatsRequest := false

# A second policy could allow anything, and HOST_DATA would still be that of the first.
default SetPolicyRequest := false

SetPolicyRequest if refuse(["the policy cannot be replaced"])

# ---------------------------------------------------------------------------------------------------------------------------
# Requests that a setting decides

default ReadStreamRequest := false

ReadStreamRequest if switched_on("ReadStreamRequest", "reading a container's output")

default WriteStreamRequest := false

WriteStreamRequest if switched_on("WriteStreamRequest", "writing to a container's input")

# Who may not write may not close either: end of input is input.
default CloseStdinRequest := false

CloseStdinRequest if switched_on("WriteStreamRequest", "closing a container's input")

default UpdateEphemeralMountsRequest := false

UpdateEphemeralMountsRequest if switched_on("UpdateEphemeralMountsRequest", "resizing ephemeral mounts")

switched_on(setting, _) if policy_data.request_defaults[setting] == true

switched_on(setting, what) if {
	not policy_data.request_defaults[setting] == true
	refuse([what, " is not allowed (request_defaults.", setting, " is false)"])
}

# ---------------------------------------------------------------------------------------------------------------------------
# State: data.pstate, which the agent changes by the `ops` of an allowed request
#
#   sandbox     {name, namespace, id} of the first container; all others must agree
#   containers  {container id: index into policy_data.containers} of the containers that exist

default state := {}

state := data.pstate

running := object.get(state, "containers", {})

# ---------------------------------------------------------------------------------------------------------------------------
# CreateSandbox

default CreateSandboxRequest := false

CreateSandboxRequest if {
	first_request
	unset("sandbox: guest_hook_path", input.guest_hook_path)
	unset("sandbox: kernel_modules", input.kernel_modules)
	same("sandbox: sandbox_pidns", input.sandbox_pidns, false)
	every storage in input.storages {
		sandbox_storage_allowed(storage)
	}
}

# The agent clears its directories when it makes a sandbox: not under containers that exist.
first_request if not state.sandbox

first_request if {
	state.sandbox
	refuse(["the sandbox exists already"])
}

sandbox_storage_allowed(storage) if sandbox_storage_listed(storage)

sandbox_storage_allowed(storage) if {
	not sandbox_storage_listed(storage)
	refuse(["sandbox: storage at ", shown(storage.mount_point), " is not in the policy"])
}

sandbox_storage_listed(storage) if {
	some wanted in policy_data.sandbox.storages
	storage.driver == wanted.driver
	storage.driver_options == wanted.driver_options
	storage.source == wanted.source
	storage.fstype == wanted.fstype
	storage.options == wanted.options
	storage.mount_point == wanted.mount_point
	storage.fs_group == wanted.fs_group
	object.get(storage, "shared", false) == false
}

# ---------------------------------------------------------------------------------------------------------------------------
# CreateContainer

default CreateContainerRequest := false

CreateContainerRequest := {"allowed": true, "ops": ops} if {
	# The agent of AKS wraps this request together with a map of its environment.
	request := object.get(input, "base", input)
	well_formed(request)
	sandbox := sandbox_of(request)
	index := chosen_container(request)
	container := policy_data.containers[index]
	who := concat("", ["container ", shown(name_of(container))])
	not_running(who, request.container_id, index)

	# In the order of the first thing a person would look at.
	annotations_allowed(who, request, container, sandbox)
	process_allowed(who, request, container, sandbox)
	storages_allowed(who, request, container, sandbox)
	root_allowed(who, request, container)
	mounts_allowed(who, request, container, sandbox)
	linux_allowed(who, request.OCI.Linux, container.OCI.Linux)
	same(said(who, "sandbox_pidns"), request.sandbox_pidns, container.sandbox_pidns)
	same(said(who, "OCI.Version"), request.OCI.Version, container.OCI.Version)
	nothing_more(who, request)
	ops := array.concat(sandbox_ops(sandbox), [{"op": "add", "path": concat("", ["/pstate/containers/", request.container_id]), "value": index}])
}

# Ids become parts of paths and of JSON pointers: 64 hex digits and nothing else.
well_formed(request) if {
	of_form("container_id", request.container_id, `^[0-9a-f]{64}$`)
	present("OCI", object.get(request, "OCI", null))
	present("OCI.Process", object.get(request, ["OCI", "Process"], null))
	present("OCI.Process.User", object.get(request, ["OCI", "Process", "User"], null))
	present("OCI.Process.Capabilities", object.get(request, ["OCI", "Process", "Capabilities"], null))
	present("OCI.Root", object.get(request, ["OCI", "Root"], null))
	present("OCI.Linux", object.get(request, ["OCI", "Linux"], null))
}

# The names of the pod, from annotations. The first container fixes them for the life of the sandbox.
sandbox_of(request) := sandbox if {
	sandbox := {
		"name": annotation(request, "io.kubernetes.cri.sandbox-name"),
		"namespace": annotation(request, "io.kubernetes.cri.sandbox-namespace"),
		"id": annotation(request, "io.kubernetes.cri.sandbox-id"),
	}
	of_form("annotation io.kubernetes.cri.sandbox-name", sandbox.name, `^[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?$`)
	of_form("annotation io.kubernetes.cri.sandbox-id", sandbox.id, `^[0-9a-f]{64}$`)
	first := object.get(state, "sandbox", sandbox)
	same("annotation io.kubernetes.cri.sandbox-name", sandbox.name, first.name)
	same("annotation io.kubernetes.cri.sandbox-namespace", sandbox.namespace, first.namespace)
	same("annotation io.kubernetes.cri.sandbox-id", sandbox.id, first.id)
}

sandbox_ops(_) := [] if state.sandbox

sandbox_ops(sandbox) := ops if {
	not state.sandbox
	ops := [
		{"op": "add", "path": "/pstate/sandbox", "value": sandbox},
		{"op": "add", "path": "/pstate/containers", "value": {}},
	]
}

# Index of the one policy container that the request says it is; the checks then hold it to that.
chosen_container(request) := index if {
	kind := annotation(request, "io.kubernetes.cri.container-type")
	matching := candidates(kind, object.get(request.OCI.Annotations, "io.kubernetes.cri.container-name", ""))
	one_candidate(kind, request, matching)
	index := matching[0]
}

candidates(kind, _) := indices if {
	kind == "sandbox"
	indices := [index |
		some index, container in policy_data.containers
		container.OCI.Annotations["io.kubernetes.cri.container-type"] == "sandbox"
	]
}

candidates(kind, name) := indices if {
	kind != "sandbox"
	indices := [index |
		some index, container in policy_data.containers
		container.OCI.Annotations["io.kubernetes.cri.container-type"] == kind
		container.OCI.Annotations["io.kubernetes.cri.container-name"] == name
	]
}

one_candidate(_, _, matching) if count(matching) == 1

one_candidate(kind, request, matching) if {
	count(matching) != 1
	name := object.get(request.OCI.Annotations, "io.kubernetes.cri.container-name", "")
	refuse(["container ", shown(name), " of type ", shown(kind), " is not in the policy"])
}

name_of(container) := object.get(container.OCI.Annotations, "io.kubernetes.cri.container-name", "pause")

# Each policy container exists at most once at a time: a second one would share its volumes and its identity.
not_running(who, id, index) if {
	not object.get(running, id, -1) >= 0
	others := [other | some other, known in running; known == index]
	not_twice(who, others)
}

not_running(who, id, _) if {
	object.get(running, id, -1) >= 0
	refuse([who, ": container_id ", shown(id), " exists already"])
}

not_twice(_, others) if count(others) == 0

not_twice(who, others) if {
	count(others) > 0
	refuse([who, ": exists already with id ", shown(others[0])])
}

# -- annotations

# Kubernetes' own annotations (prefix io.kubernetes.cri.) say nothing that the guest acts on, apart from those compared here.
annotations_allowed(who, request, container, sandbox) if {
	wanted := container.OCI.Annotations
	same(
		said(who, "annotation io.kubernetes.cri.sandbox-namespace"),
		sandbox.namespace,
		object.get(wanted, "io.kubernetes.cri.sandbox-namespace", sandbox.namespace),
	)
	ids := {"sandbox": sandbox, "bundle_id": request.container_id}
	annotation_allowed(who, "io.kubernetes.cri.sandbox-name", sandbox.name, wanted, ids)
	every key, value in request.OCI.Annotations {
		annotation_allowed(who, key, value, wanted, ids)
	}
}

annotation_allowed(_, key, value, wanted, ids) if annotation_matches(key, value, wanted, ids)

annotation_allowed(who, key, value, wanted, ids) if {
	not annotation_matches(key, value, wanted, ids)
	wanted[key]
	refuse([who, ": annotation ", key, ": found ", shown(value), ", policy allows ", shown(wanted[key])])
}

annotation_allowed(who, key, value, wanted, ids) if {
	not annotation_matches(key, value, wanted, ids)
	not wanted[key]
	refuse([who, ": annotation ", key, " is not in the policy"])
}

annotation_matches(key, _, wanted, _) if {
	startswith(key, "io.kubernetes.cri.")
	not wanted[key]
}

# containerd may spell the image's name in another way; the layers are pinned by their hashes.
annotation_matches(key, _, _, _) if key == "io.kubernetes.cri.image-name"

annotation_matches(key, value, wanted, _) if wanted[key] == value

annotation_matches(key, value, wanted, ids) if {
	patterned_annotations[key]
	pattern := annotation_pattern(wanted[key], ids)
	regex.match(pattern, value)
}

# The annotations whose policy value is a pattern. Those of the pod's author are compared as they are.
patterned_annotations := {
	"io.katacontainers.pkg.oci.bundle_path": true,
	"io.kubernetes.cri.sandbox-id": true,
	"io.kubernetes.cri.sandbox-log-directory": true,
	"io.kubernetes.cri.sandbox-name": true,
	"nerdctl/network-namespace": true,
}

annotation_pattern(text, _) := "^.+$" if contains(text, "$(generated-name)")

annotation_pattern(text, ids) := pattern if {
	not contains(text, "$(generated-name)")
	startswith(text, "^")
	named := replace(text, "$(sandbox-name)", literal(ids.sandbox.name))
	pattern := replace(named, "$(sandbox-namespace)", literal(ids.sandbox.namespace))
}

annotation_pattern(text, ids) := pattern if {
	not contains(text, "$(generated-name)")
	not startswith(text, "^")
	pattern := concat("", ["^", literal(replace(text, "$(bundle-id)", ids.bundle_id)), "$"])
}

# -- process

process_allowed(who, request, container, sandbox) if {
	found := request.OCI.Process
	wanted := container.OCI.Process
	same(said(who, "process.Terminal"), found.Terminal, wanted.Terminal)
	args_allowed(who, found.Args, object.get(wanted, "Args", []), sandbox)
	environment_allowed(who, found.Env, object.get(wanted, "Env", []), sandbox)
	every_variable_there(who, found.Env, object.get(wanted, "Env", []))
	same(said(who, "process.Cwd"), found.Cwd, object.get(wanted, "Cwd", ""))
	same(said(who, "process.NoNewPrivileges"), found.NoNewPrivileges, wanted.NoNewPrivileges)
	same(said(who, "process.User.UID"), found.User.UID, wanted.User.UID)
	unset(said(who, "process.User.Username"), found.User.Username)
	unset(said(who, "process.SelinuxLabel"), found.SelinuxLabel)
	every list in ["Bounding", "Effective", "Inheritable", "Permitted", "Ambient"] {
		capabilities_allowed(said(who, concat("", ["process.Capabilities.", list])), found.Capabilities[list], wanted.Capabilities[list])
	}
}

args_allowed(who, found, wanted, sandbox) if {
	count(found) == count(wanted)
	every index, arg in wanted {
		arg_allowed(who, index, found[index], arg, sandbox)
	}
}

args_allowed(who, found, wanted, _) if {
	count(found) != count(wanted)
	refuse([who, ": process.Args: found ", shown(found), ", policy allows ", shown(wanted)])
}

arg_allowed(_, _, found, wanted, sandbox) if arg_matches(found, wanted, sandbox)

arg_allowed(who, index, found, wanted, sandbox) if {
	not arg_matches(found, wanted, sandbox)
	refuse([who, ": process.Args[", shown(index), "]: found ", shown(found), ", policy allows ", shown(wanted)])
}

# Kubernetes takes $$ for an escaped $.
arg_matches(found, wanted, _) if found == replace(wanted, "$$", "$")

arg_matches(found, wanted, sandbox) if text_matches(found, wanted, sandbox)

environment_allowed(who, found, wanted, sandbox) if {
	names := {variable_name(variable) | some variable in wanted}
	every variable in found {
		variable_allowed(who, variable, wanted, names, sandbox)
	}

	# With two values for a name the last one wins in the guest, whatever was checked of the first.
	same(said(who, "number of names in process.Env"), count({variable_name(variable) | some variable in found}), count(found))
}

variable_allowed(_, variable, wanted, names, sandbox) if variable_matches(variable, wanted, names, sandbox)

variable_allowed(who, variable, wanted, names, sandbox) if {
	not variable_matches(variable, wanted, names, sandbox)
	refuse([who, ": env ", shown(variable), " is not allowed"])
}

variable_matches(variable, wanted, _, _) if variable in wanted

variable_matches(variable, wanted, _, sandbox) if {
	some pattern in wanted
	contains(pattern, "$(")
	text_matches(variable, pattern, sandbox)
}

# A variable of the pod is never taken from the patterns for those that Kubernetes adds by itself.
variable_matches(variable, _, names, _) if {
	contains(variable, "=")
	not variable_name(variable) in names
	some pattern in policy_data.request_defaults.CreateContainerRequest.allow_env_regex
	regex.match(environment_pattern(pattern), variable)
}

environment_pattern(pattern) := anchored if {
	addressed := replace(pattern, "$(ipv4_a)", policy_data.common.ipv4_a)
	ported := replace(addressed, "$(ip_p)", policy_data.common.ip_p)
	served := replace(ported, "$(svc_name)", policy_data.common.svc_name)
	labelled := replace(served, "$(dns_label)", policy_data.common.dns_label)
	anchored := concat("", ["^(?:", labelled, ")$"])
}

# A variable with a fixed value cannot be left out: an application may be less careful without it.
every_variable_there(who, found, wanted) if {
	names := {variable_name(variable) | some variable in found}
	every variable in wanted {
		variable_there(who, variable, names)
	}
}

variable_there(_, variable, _) if contains(variable, "$(")

variable_there(_, variable, names) if variable_name(variable) in names

variable_there(who, variable, names) if {
	not contains(variable, "$(")
	not variable_name(variable) in names
	refuse([who, ": env ", shown(variable), " is missing"])
}

variable_name(variable) := split(variable, "=")[0]

capabilities_allowed(what, found, wanted) if {
	is_array(found)
	sets := {"$(default_caps)": policy_data.common.default_caps, "$(privileged_caps)": policy_data.common.privileged_caps}
	allowed := {capability | some entry in wanted; some capability in object.get(sets, entry, [entry])}
	same(what, sort({capability | some capability in found}), sort(allowed))
}

# -- root file system: storages, root

# A container's storages are its image layers, each bound to a dm-verity root hash, the overlay of them, and its volumes.
storages_allowed(who, request, container, sandbox) if {
	same(said(who, "number of storages"), count(request.storages), count(container.storages))
	root := root_path(request, container)
	layers := layers_of(container)
	every storage in request.storages {
		storage_allowed(who, storage, container, {"sandbox": sandbox, "bundle_id": request.container_id, "root": root, "layers": layers})
	}
	found := {storage.mount_point | some storage in request.storages}
	every layer in layers {
		storage_there(said(who, concat("", ["layer ", shown(layer.number)])), layer.mount_point, found)
	}
	storage_there(said(who, "overlay"), root, found)
}

storage_there(_, mount_point, found) if mount_point in found

storage_there(what, mount_point, found) if {
	not mount_point in found
	refuse([what, ": no storage at ", shown(mount_point)])
}

root_path(request, container) := replace(replace(container.OCI.Root.Path, "$(cpath)", policy_data.common.cpath), "$(bundle-id)", request.container_id)

# The layers, top first, with number, id, root hash and mount point. Their ids and hashes stand in the overlay's options.
layers_of(container) := layers if {
	overlays := [storage | some storage in container.storages; storage.driver == "overlayfs"]
	ids := split(overlays[0].options[0], ":")
	hashes := split(overlays[0].options[1], ":")
	layers := [layer |
		some number, id in ids
		layer := {
			"number": number,
			"id": id,
			"hash": hashes[number],
			"mount_point": concat("", ["/run/kata-containers/sandbox/layers/", id]),
		}
	]
}

storage_allowed(who, storage, _, ids) if {
	layer_storage(storage)
	matching := [layer | some layer in ids.layers; layer.mount_point == storage.mount_point]
	layer_allowed(who, storage, matching)
}

storage_allowed(who, storage, _, ids) if {
	not layer_storage(storage)
	storage.mount_point == ids.root
	overlay_allowed(said(who, "overlay"), storage, ids)
}

storage_allowed(who, storage, container, ids) if {
	not layer_storage(storage)
	storage.mount_point != ids.root
	volume_storage_allowed(who, storage, container, ids)
}

layer_storage(storage) if startswith(storage.mount_point, "/run/kata-containers/sandbox/layers/")

layer_allowed(who, storage, layers) if {
	count(layers) > 0
	what := said(who, concat("", ["layer ", shown(layers[0].number)]))
	same(said(what, "driver"), storage.driver, "blk")
	same(said(what, "fstype"), storage.fstype, "tar")

	# A device that the host attached: slot, PCI path or PCI address, never a path.
	of_form(said(what, "source"), storage.source, `^(?:[0-9a-f]{2}(?:/[0-9a-f]{2})?|[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])$`)
	layer_options_allowed(what, storage.options, layers[0])
	bare_storage(what, storage)
}

layer_allowed(who, storage, layers) if {
	count(layers) == 0
	refuse([who, ": layer at ", shown(storage.mount_point), " is not in the policy"])
}

layer_options_allowed(_, found, layer) if found == layer_options(layer)

layer_options_allowed(what, found, layer) if {
	hash_differs(found, layer)
	refuse([what, ": root hash: found ", shown(trim_prefix(found[3], root_hash_option)), ", policy allows ", shown(layer.hash)])
}

layer_options_allowed(what, found, layer) if {
	found != layer_options(layer)
	not hash_differs(found, layer)
	refuse([what, ": options: found ", shown(found), ", policy allows ", shown(layer_options(layer))])
}

# True if the root hash is all that differs: the image is another one, or was changed.
hash_differs(found, layer) if {
	wanted := layer_options(layer)
	count(found) == 4
	array.slice(found, 0, 3) == array.slice(wanted, 0, 3)
	startswith(found[3], root_hash_option)
	found[3] != wanted[3]
}

root_hash_option := "io.katacontainers.fs-opt.root-hash="

layer_options(layer) := [
	"ro",
	"io.katacontainers.fs-opt.block_device=file",
	"io.katacontainers.fs-opt.is-layer",
	concat("", [root_hash_option, layer.hash]),
]

overlay_allowed(what, storage, ids) if {
	same(said(what, "driver"), storage.driver, "overlayfs")
	same(said(what, "source"), storage.source, "none")
	same(said(what, "fstype"), storage.fstype, "fuse3.kata-overlay")
	layer_list := [concat("", ["io.katacontainers.fs-opt.layer=", base64.encode(concat(",", array.concat([layer.id, "tar"], layer_options(layer))))]) |
		some layer in ids.layers
	]
	prefix := ["io.katacontainers.fs-opt.layer-src-prefix=/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers"]
	lower := concat("", ["lowerdir=", concat(":", [layer.id | some layer in ids.layers])])
	wanted := array.concat(prefix, array.concat(layer_list, ["io.katacontainers.fs-opt.overlay-rw", lower]))
	same(said(what, "options"), storage.options, wanted)
	bare_storage(what, storage)
}

volume_storage_allowed(who, storage, container, ids) if {
	wanted := [candidate |
		some candidate in container.storages
		not candidate.driver in {"blk", "overlayfs"}
		regex.match(path_pattern(candidate.mount_point, ids), storage.mount_point)
	]
	volume_storage_matches(who, storage, wanted)
}

volume_storage_matches(who, storage, wanted) if {
	count(wanted) > 0
	what := said(who, concat("", ["storage at ", shown(storage.mount_point)]))
	same(said(what, "driver"), storage.driver, wanted[0].driver)
	same(said(what, "source"), storage.source, wanted[0].source)
	same(said(what, "fstype"), storage.fstype, wanted[0].fstype)
	same(said(what, "options"), storage.options, wanted[0].options)
	bare_storage(what, storage)
}

volume_storage_matches(who, storage, wanted) if {
	count(wanted) == 0
	refuse([who, ": storage at ", shown(storage.mount_point), " is not in the policy"])
}

bare_storage(what, storage) if {
	unset(said(what, "driver_options"), storage.driver_options)
	unset(said(what, "fs_group"), storage.fs_group)
	same(said(what, "shared"), object.get(storage, "shared", false), false)
}

root_allowed(who, request, container) if {
	same(said(who, "root.Path"), request.OCI.Root.Path, root_path(request, container))
	same(said(who, "root.Readonly"), request.OCI.Root.Readonly, container.OCI.Root.Readonly)
}

# -- mounts

mounts_allowed(who, request, container, sandbox) if {
	ids := {"sandbox": sandbox, "bundle_id": request.container_id}
	every mount in request.OCI.Mounts {
		mount_allowed(who, mount, container.OCI.Mounts, ids)
	}

	# Of two mounts at one place the second hides the first.
	same(said(who, "number of mount destinations"), count({mount.destination | some mount in request.OCI.Mounts}), count(request.OCI.Mounts))
}

mount_allowed(who, mount, policy_mounts, ids) if {
	wanted := [candidate | some candidate in policy_mounts; candidate.destination == mount.destination]
	mount_listed(who, mount, wanted, ids)
}

mount_listed(_, mount, wanted, ids) if mount_matches(mount, wanted, ids)

mount_listed(who, mount, wanted, ids) if {
	not mount_matches(mount, wanted, ids)
	count(wanted) == 0
	refuse([who, ": mount at ", shown(mount.destination), " is not in the policy"])
}

mount_listed(who, mount, wanted, ids) if {
	not mount_matches(mount, wanted, ids)
	count(wanted) > 0
	what := said(who, concat("", ["mount at ", shown(mount.destination)]))
	same(said(what, "type"), mount.type_, wanted[0].type_)
	same(said(what, "options"), mount.options, wanted[0].options)
	refuse([what, ": source: found ", shown(mount.source), ", policy allows ", shown(wanted[0].source)])
}

mount_matches(mount, wanted, ids) if {
	some candidate in wanted
	mount.type_ == candidate.type_
	mount.options == candidate.options
	regex.match(path_pattern(candidate.source, ids), mount.source)
}

# Sources and mount points are patterns if they start with ^ (or $(sfprefix), which does) and plain text if not.
path_pattern(text, ids) := pattern if {
	prefixed := replace(text, "$(sfprefix)", policy_data.common.sfprefix)
	startswith(prefixed, "^")
	shared := replace(prefixed, "$(cpath)", policy_data.common.cpath)
	bundled := replace(shared, "$(bundle-id)", ids.bundle_id)
	pattern := replace(bundled, "$(sandbox-id)", ids.sandbox.id)
}

path_pattern(text, _) := pattern if {
	not startswith(replace(text, "$(sfprefix)", policy_data.common.sfprefix), "^")
	pattern := concat("", ["^", literal(text), "$"])
}

# -- Linux

linux_allowed(who, found, wanted) if {
	same(
		said(who, "linux.Namespaces"),
		sort([[namespace.Type, namespace.Path] | some namespace in found.Namespaces]),
		sort([[namespace.Type, namespace.Path] | some namespace in wanted.Namespaces]),
	)
	hidden := {path | some path in found.MaskedPaths}
	protected := hidden | {path | some path in found.ReadonlyPaths}
	every path in wanted.MaskedPaths {
		path_covered(said(who, "linux.MaskedPaths"), path, hidden)
	}
	every path in wanted.ReadonlyPaths {
		path_covered(said(who, "linux.ReadonlyPaths"), path, protected)
	}
	every name, value in found.Sysctl {
		sysctl_allowed(who, name, value)
	}
}

path_covered(_, path, paths) if path in paths

path_covered(what, path, paths) if {
	not path in paths
	refuse([what, ": ", shown(path), " is missing"])
}

# What containerd sets by itself; both loosen nothing outside the pod's VM.
sysctl_allowed(_, name, value) if {
	some known in [["net.ipv4.ip_unprivileged_port_start", "0"], ["net.ipv4.ping_group_range", "0 2147483647"]]
	known == [name, value]
}

sysctl_allowed(who, name, value) if {
	not [name, value] in [["net.ipv4.ip_unprivileged_port_start", "0"], ["net.ipv4.ping_group_range", "0 2147483647"]]
	refuse([who, ": linux.Sysctl ", name, "=", shown(value), " is not allowed"])
}

# -- fields that no pod of this profile uses

nothing_more(who, request) if {
	every path in [
		["devices"],
		["shared_mounts"],
		["string_user"],
		["OCI", "Hooks"],
		["OCI", "Solaris"],
		["OCI", "Windows"],
		["OCI", "Linux", "Devices"],
		["OCI", "Linux", "GIDMappings"],
		["OCI", "Linux", "IntelRdt"],
		["OCI", "Linux", "MountLabel"],
		["OCI", "Linux", "Resources", "BlockIO"],
		["OCI", "Linux", "Resources", "Devices"],
		["OCI", "Linux", "Resources", "Network"],
		["OCI", "Linux", "Resources", "Pids"],
		["OCI", "Linux", "RootfsPropagation"],
		["OCI", "Linux", "Seccomp"],
		["OCI", "Linux", "UIDMappings"],
	] {
		unset(said(who, concat(".", path)), object.get(request, path, null))
	}
}

# ---------------------------------------------------------------------------------------------------------------------------
# RemoveContainer: frees the policy container for another start

default RemoveContainerRequest := false

RemoveContainerRequest := {"allowed": true, "ops": [{"op": "remove", "path": concat("", ["/pstate/containers/", input.container_id])}]} if {
	object.get(running, input.container_id, -1) >= 0
}

# There is nothing to remove, and the agent will say so.
RemoveContainerRequest := {"allowed": true, "ops": []} if not object.get(running, input.container_id, -1) >= 0

# ---------------------------------------------------------------------------------------------------------------------------
# ExecProcess

default ExecProcessRequest := false

ExecProcessRequest if {
	index := running_index(input.container_id)
	container := policy_data.containers[index]
	who := concat("", ["exec in ", shown(name_of(container))])
	present("process", input.process)
	present("process.User", object.get(input, ["process", "User"], null))
	command_allowed(container, input.process.Args)
	wanted := container.OCI.Process
	same(said(who, "process.Cwd"), input.process.Cwd, object.get(wanted, "Cwd", ""))
	same(said(who, "process.NoNewPrivileges"), input.process.NoNewPrivileges, wanted.NoNewPrivileges)
	same(said(who, "process.User.UID"), input.process.User.UID, wanted.User.UID)
	unset(said(who, "process.User.Username"), input.process.User.Username)
	unset(said(who, "string_user"), input.string_user)
	unset(said(who, "process.SelinuxLabel"), input.process.SelinuxLabel)
	unset(said(who, "process.ApparmorProfile"), input.process.ApparmorProfile)
	unset(said(who, "process.Capabilities"), input.process.Capabilities)
	environment_allowed(who, input.process.Env, array.concat(object.get(wanted, "Env", []), terminal_env(input.process.Terminal)), state.sandbox)
}

running_index(id) := running[id]

running_index(id) := index if {
	not object.get(running, id, -1) >= 0
	refuse(["exec: container ", shown(id), " does not exist"])
	index := -1
}

# containerd adds this variable for a terminal.
terminal_env(terminal) := ["TERM=xterm"] if terminal == true

terminal_env(terminal) := [] if terminal != true

command_allowed(container, args) if command_listed(container, concat(" ", args))

command_allowed(container, args) if {
	not command_listed(container, concat(" ", args))
	refuse(["exec of ", shown(args), " is not allowed in ", shown(name_of(container))])
}

command_listed(container, command) if command in container.exec_commands

command_listed(_, command) if command in policy_data.request_defaults.ExecProcessRequest.commands

command_listed(_, command) if {
	some pattern in policy_data.request_defaults.ExecProcessRequest.regex
	regex.match(pattern, command)
}

# ---------------------------------------------------------------------------------------------------------------------------
# CopyFile: only below the directory for shared files, in an entry that bears a container's id

default CopyFileRequest := false

CopyFileRequest if {
	inside("copied file", input.path)
	path_copyable(input.path, "")
	link_allowed(object.get(input, "symlink_src", ""))
}

inside(_, path) if not ".." in split(path, "/")

inside(what, path) if {
	".." in split(path, "/")
	refuse([what, ": ", shown(path), " leaves its directory"])
}

path_copyable(path, below) if path_listed(path, below)

path_copyable(path, below) if {
	not path_listed(path, below)
	refuse(["copied file: path ", shown(path), " is not allowed"])
}

path_listed(path, below) if {
	some pattern in policy_data.request_defaults.CopyFileRequest
	prefixed := replace(pattern, "$(sfprefix)", policy_data.common.sfprefix)
	shared := replace(prefixed, "$(cpath)", policy_data.common.cpath)
	bundled := replace(shared, "$(bundle-id)", "[a-z0-9]{64}")
	regex.match(concat("", [bundled, below]), path)
}

link_allowed(target) if target == ""

# A link is allowed inside a copied directory, and only to something next to it or below.
link_allowed(target) if {
	target != ""
	path_copyable(input.path, "[^/]+/.")
	not_absolute(target)
	inside("copied link", target)
}

not_absolute(target) if not startswith(target, "/")

not_absolute(target) if {
	startswith(target, "/")
	refuse(["copied link: target ", shown(target), " is absolute"])
}

# ---------------------------------------------------------------------------------------------------------------------------
# Network: the host sets up the pod's interfaces, but not the loopback, which the pod trusts

default UpdateInterfaceRequest := false

UpdateInterfaceRequest if {
	present("interface", input.interface)
	differs("interface: name", input.interface.name, "lo")
	differs("interface: hwAddr", input.interface.hwAddr, "00:00:00:00:00:00")

	# IFF_NOARP (0x80) is all that the runtime asks for.
	allowed_flags := {0, 128}
	flags := object.get(input.interface, "raw_flags", 0)
	one_of("interface: raw_flags", flags, allowed_flags)
}

default UpdateRoutesRequest := false

UpdateRoutesRequest if {
	present("routes", input.routes)
	every route in input.routes.Routes {
		differs("route: device", route.device, "lo")
		not_loopback(route.source)
	}
}

not_loopback(source) if not regex.match(loopback, source)

not_loopback(source) if {
	regex.match(loopback, source)
	refuse(["route: source ", shown(source), " is not allowed"])
}

loopback := `^(?:127\.|::1(?:$|/)|0*(?::0*){7}0*1(?:$|/)|(?:::|(?:0*:){6})[fF]{4}:127\.)`

# ---------------------------------------------------------------------------------------------------------------------------
# Checks that say why they fail

# Prints the reason. Never true.
refuse(parts) if {
	print(concat("", parts))
	false
}

same(_, found, wanted) if found == wanted

same(what, found, wanted) if {
	found != wanted
	refuse([what, ": found ", shown(found), ", policy allows ", shown(wanted)])
}

differs(_, found, forbidden) if found != forbidden

differs(what, found, forbidden) if {
	found == forbidden
	refuse([what, " ", shown(found), " is not allowed"])
}

one_of(_, found, wanted) if found in wanted

one_of(what, found, wanted) if {
	not found in wanted
	refuse([what, ": found ", shown(found), ", policy allows ", shown(wanted)])
}

unset(_, value) if value in [null, "", [], {}]

unset(what, value) if {
	not value in [null, "", [], {}]
	refuse([what, ": found ", shown(value), ", policy allows nothing"])
}

present(_, value) if is_object(value)

present(what, value) if {
	not is_object(value)
	refuse([what, " is missing"])
}

of_form(_, value, pattern) if regex.match(pattern, value)

of_form(what, value, pattern) if {
	not regex.match(pattern, value)
	refuse([what, ": found ", shown(value), ", policy allows ", pattern])
}

annotation(request, key) := object.get(request.OCI.Annotations, key, "")

said(who, what) := concat("", [who, ": ", what])

# Text for a reason, at most 200 characters: the host chooses what is found.
shown(value) := substring(json.marshal(value), 0, 200)

# ---------------------------------------------------------------------------------------------------------------------------
# Placeholders in arguments and environment

text_matches(found, wanted, _) if found == wanted

text_matches(found, wanted, sandbox) if {
	contains(wanted, "$(")
	regex.match(text_pattern(wanted, sandbox), found)
}

# Everything but the placeholders is plain text.
text_pattern(text, sandbox) := pattern if {
	plain := literal(text)
	named := replace(plain, `\$\(sandbox-name\)`, literal(sandbox.name))
	spaced := replace(named, `\$\(sandbox-namespace\)`, literal(sandbox.namespace))
	hosted := replace(spaced, `\$\(host-name\)`, host_pattern)
	noded := replace(hosted, `\$\(node-name\)`, host_pattern)
	unique := replace(noded, `\$\(pod-uid\)`, `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	addressed := replace(unique, `\$\(pod-ip\)`, address_pattern)
	placed := replace(addressed, `\$\(host-ip\)`, address_pattern)
	measured := replace(placed, `\$\(resource-field\)`, `[0-9]+`)
	annotated := replace(measured, `\$\(todo-annotation\)`, `[^=]*`)
	pattern := concat("", ["^", annotated, "$"])
}

host_pattern := `[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9])?`

address_pattern := concat("", ["(?:", policy_data.common.ipv4_a, "|[0-9a-fA-F:]{2,39})"])

# A regular expression that matches this text and nothing else.
literal(text) := regex.replace(text, `[\\.+*?()|\[\]{}^$]`, `\$0`)

# ---------------------------------------------------------------------------------------------------------------------------
# The pod
