# Rules in the dialect of today's Kata policies, written for this benchmark: the same constructs in the same numbers, not the same
# checks. They protect nothing; sealpod's own rules are in author/genpolicy/data.
package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

default AddARPNeighborsRequest := false
default AddSwapPathRequest := false
default AddSwapRequest := false
default CloseStdinRequest := false
default CopyFileRequest := false
default CreateContainerRequest := false
default CreateSandboxRequest := false
default DestroySandboxRequest := true
default ExecProcessRequest := false
default GetDiagnosticDataRequest := false
default GetIPTablesRequest := false
default GetMetricsRequest := false
default GetOOMEventRequest := true
default GuestDetailsRequest := true
default ListInterfacesRequest := false
default ListRoutesRequest := false
default MemAgentCompactConfig := false
default MemAgentMemcgConfig := false
default MemHotplugByProbeRequest := false
default OnlineCPUMemRequest := true
default PauseContainerRequest := false
default ReadStreamRequest := false
default RemoveContainerRequest := true
default RemoveStaleVirtiofsShareMountsRequest := true
default ReseedRandomDevRequest := false
default ResizeVolumeRequest := false
default ResumeContainerRequest := false
default SetGuestDateTimeRequest := false
default SetIPTablesRequest := false
default SetPolicyRequest := false
default SignalProcessRequest := true
default StartContainerRequest := true
default StartTracingRequest := false
default StatsContainerRequest := true
default StopTracingRequest := false
default TtyWinResizeRequest := true
default UpdateContainerRequest := false
default UpdateEphemeralMountsRequest := false
default UpdateInterfaceRequest := false
default UpdateRoutesRequest := false
default VolumeStatsRequest := false
default WaitProcessRequest := true
default WriteStreamRequest := false
default AllowRequestsFailingPolicy := false

sandbox_name_key := "io.kubernetes.cri.sandbox-name"
namespace_key := "io.kubernetes.cri.sandbox-namespace"
sandbox_id_key := "io.kubernetes.cri.sandbox-id"
container_type_key := "io.kubernetes.cri.container-type"
container_name_key := "io.kubernetes.cri.container-name"
pkg_type_key := "io.katacontainers.pkg.oci.container_type"
log_directory_key := "io.kubernetes.cri.sandbox-log-directory"
netns_key := "nerdctl/network-namespace"

# ---- CreateContainer

CreateContainerRequest := {"ops": ops, "allowed": true} if {
    spec := input.OCI
    no_extras(spec)
    print("CreateContainer: request has no extras")

    name := spec.Annotations[sandbox_name_key]
    name_op := remembered("sandbox_name", name)
    print("CreateContainer: sandbox name", name, "op", name_op)

    some index, candidate in policy_data.containers
    print("CreateContainer: ===== candidate", index)

    wanted := candidate.OCI
    print("CreateContainer: candidate =", wanted)

    print("CreateContainer: pid namespace: found", input.sandbox_pidns, "wanted", candidate.sandbox_pidns)
    candidate.sandbox_pidns == input.sandbox_pidns

    namespace := namespace_of(wanted, spec)
    namespace_op := remembered("namespace", namespace)
    print("CreateContainer: namespace", namespace, "op", namespace_op)

    print("CreateContainer: version: found", spec.Version, "wanted", wanted.Version)
    wanted.Version == spec.Version

    print("CreateContainer: read-only root: found", spec.Root.Readonly, "wanted", wanted.Root.Readonly)
    wanted.Root.Readonly == spec.Root.Readonly

    annotations_known(candidate, spec)
    network := network_namespace(spec)
    network_op := remembered("network_namespace", network)
    linux_fits(wanted, spec)
    identity_fits(candidate, wanted, spec, name, namespace)

    id_op := remembered(input.container_id, index)
    ops := [op | some op in [name_op, namespace_op, network_op, id_op]; not is_null(op)]
    print("CreateContainer: allowed by candidate", index, "ops", ops)
}

no_extras(spec) if {
    print("no_extras: shared mounts", input.shared_mounts, "user", input.string_user)
    count(input.shared_mounts) == 0
    is_null(input.string_user)

    print("no_extras: hooks", spec.Hooks, spec.Solaris, spec.Windows)
    is_null(spec.Hooks)
    is_null(spec.Solaris)
    is_null(spec.Windows)

    linux := spec.Linux
    print("no_extras: linux", linux)
    count(linux.GIDMappings) == 0
    count(linux.UIDMappings) == 0
    count(linux.MountLabel) == 0
    count(linux.RootfsPropagation) == 0
    count(linux.Resources.Devices) == 0
    is_null(linux.IntelRdt)
    is_null(linux.Seccomp)
    is_null(linux.Resources.BlockIO)
    is_null(linux.Resources.Network)
    is_null(linux.Resources.Pids)

    count(spec.Process.SelinuxLabel) == 0
    count(spec.Process.User.Username) == 0
    print("no_extras: none")
}

# ---- State. An operation for a value that is not yet known, null for the value that is.

stored := data["pstate"]

known(key) if {
    stored[key]
}

remembered(key, value) := op if {
    not known(key)
    op := {"op": "add", "path": state_path(key), "value": value}
    print("remembered: new", key, op)
} else := null if {
    found := stored[key]
    print("remembered: found", found, "wanted", value)
    found == value
}

state_path(key) := concat("/", ["", "pstate", key])

state_op(kind, key) := {"op": kind, "path": state_path(key)}

# ---- Annotations and the names of the pod

namespace_of(wanted, spec) := found if {
    found := spec.Annotations[namespace_key]
    fixed := wanted.Annotations[namespace_key]
    print("namespace_of 1: found", found, "wanted", fixed)
    found == fixed
}

namespace_of(wanted, spec) := found if {
    wanted.Annotations[namespace_key] == ""
    found := spec.Annotations[namespace_key]
    print("namespace_of 2: found", found)
}

annotations_known(candidate, spec) if {
    print("annotations_known 1: no annotations")
    not spec.Annotations
}

annotations_known(candidate, spec) if {
    print("annotations_known 2:", spec.Annotations)
    every key, value in spec.Annotations {
        annotation_known(key, value, candidate)
    }
    print("annotations_known 2: true")
}

annotation_known(key, value, candidate) if {
    print("annotation_known 1:", key)
    startswith(key, "io.kubernetes.cri.")
}

annotation_known(key, value, candidate) if {
    print("annotation_known 2:", key)
    some name, _ in candidate.OCI.Annotations
    name == key
}

annotation_known(key, value, candidate) if {
    print("annotation_known 3:", key, value, candidate.runtime_anno_patterns)
    some key_pattern, value_pattern in candidate.runtime_anno_patterns
    regex.match(key_pattern, key)
    regex.match(value_pattern, value)
}

identity_fits(candidate, wanted, spec, name, namespace) if {
    pod_name_fits(wanted, name)
    print("identity_fits: name", name)
    type_fits(wanted, spec, name, namespace)

    id := spec.Annotations[sandbox_id_key]
    pattern := wanted.Annotations[sandbox_id_key]
    print("identity_fits: sandbox id", id, "pattern", pattern)
    regex.match(pattern, id)

    bundle := bundle_of(wanted, spec)
    print("identity_fits: bundle", bundle)
    mounts_fit(wanted, spec, bundle, id)
    storages_fit(candidate, bundle, id)
    devices_fit(candidate)
    process_fits(wanted, spec, name, namespace)
    print("identity_fits: true")
}

pod_name_fits(wanted, name) if {
    not wanted.Annotations[sandbox_name_key]
    print("pod_name_fits 1: any name")
}

pod_name_fits(wanted, name) if {
    pattern := wanted.Annotations[sandbox_name_key]
    print("pod_name_fits 2:", pattern, name)
    regex.match(pattern, name)
}

type_fits(wanted, spec, name, namespace) if {
    found := spec.Annotations[container_type_key]
    fixed := wanted.Annotations[container_type_key]
    print("type_fits: found", found, "wanted", fixed)
    found == fixed
    type_details_fit(found, wanted, spec, name, namespace)
}

type_details_fit("sandbox", wanted, spec, name, namespace) if {
    print("type_details_fit 1: sandbox")
    spec.Annotations[pkg_type_key] == "pod_sandbox"
    not spec.Annotations[container_name_key]
    not wanted.Annotations[container_name_key]
    netns_fits(wanted, spec)
    log_directory_fits(wanted, spec, name, namespace)
}

type_details_fit("container", wanted, spec, name, namespace) if {
    print("type_details_fit 2: container")
    spec.Annotations[pkg_type_key] == "pod_container"
    fixed := wanted.Annotations[container_name_key]
    found := spec.Annotations[container_name_key]
    print("type_details_fit 2: name: found", found, "wanted", fixed)
    fixed == found
    not spec.Annotations[netns_key]
    not wanted.Annotations[netns_key]
    not spec.Annotations[log_directory_key]
    not wanted.Annotations[log_directory_key]
}

netns_fits(wanted, spec) if {
    pattern := wanted.Annotations[netns_key]
    found := spec.Annotations[netns_key]
    print("netns_fits:", pattern, found)
    regex.match(pattern, found)
}

log_directory_fits(wanted, spec, name, namespace) if {
    raw := wanted.Annotations[log_directory_key]
    named := replace(raw, "$(sandbox-name)", name)
    pattern := replace(named, "$(sandbox-namespace)", namespace)
    found := spec.Annotations[log_directory_key]
    print("log_directory_fits:", pattern, found)
    regex.match(pattern, found)
}

bundle_of(wanted, spec) := bundle if {
    rooted := replace(wanted.Root.Path, "$(root_path)", policy_data.common.root_path)
    pattern := replace(rooted, "$(bundle-id)", "([0-9a-f]{64}|[a-z0-9][a-z0-9.-]*)")
    print("bundle_of:", pattern, spec.Root.Path)
    bundle := regex.find_all_string_submatch_n(pattern, spec.Root.Path, 1)[0][1]
}

# ---- Linux

linux_fits(wanted, spec) if {
    namespaces_fit(wanted.Linux.Namespaces, spec.Linux.Namespaces)
    masked_fit(wanted.Linux.MaskedPaths, spec.Linux.MaskedPaths)
    readonly_fit(wanted.Linux.ReadonlyPaths, spec.Linux.ReadonlyPaths, spec.Linux.MaskedPaths)
    linux_devices_fit(wanted.Linux.Devices, spec.Linux.Devices)
    sysctls_fit(wanted.Linux, spec.Linux)
    print("linux_fits: true")
}

namespaces_fit(wanted, found) if {
    own := [{"Path": namespace.Path, "Type": plain_type(namespace.Type)} |
        some namespace in found
        not namespace.Type in {"network", "cgroup"}
    ]
    listed := [{"Path": namespace.Path, "Type": plain_type(namespace.Type)} | some namespace in wanted]
    print("namespaces_fit: found", own, "wanted", listed)
    own == listed
}

plain_type(text) := "mnt" if {
    lower(text) == "mount"
} else := lower(text) if {
    true
}

network_namespace(spec) := path if {
    paths := [namespace.Path | some namespace in spec.Linux.Namespaces; namespace.Type == "network"]
    print("network_namespace 1:", paths)
    count(paths) == 1
    path := paths[0]
}

network_namespace(spec) := "" if {
    paths := [namespace.Path | some namespace in spec.Linux.Namespaces; namespace.Type == "network"]
    print("network_namespace 2:", paths)
    count(paths) == 0
}

masked_fit(wanted, found) if {
    print("masked_fit: found", found, "wanted", wanted)
    every path in wanted {
        path_listed(path, found)
    }
}

path_listed(path, paths) if {
    some other in paths
    path == other
}

readonly_fit(wanted, found, masked) if {
    print("readonly_fit: found", found, "masked", masked, "wanted", wanted)
    every path in wanted {
        path_protected(path, found, masked)
    }
}

path_protected(path, found, masked) if {
    some other in found
    path == other
}

path_protected(path, found, masked) if {
    some other in masked
    path == other
}

linux_devices_fit(wanted, found) if {
    print("linux_devices_fit: found", found, "wanted", wanted)
    every device in found {
        some other in wanted
        device.Path == other.Path
    }
}

sysctls_fit(wanted, found) if {
    print("sysctls_fit 1:", found.Sysctl)
    not found.Sysctl
}

sysctls_fit(wanted, found) if {
    print("sysctls_fit 2: found", found.Sysctl, "wanted", wanted.Sysctl)
    every name, value in found.Sysctl {
        wanted.Sysctl[name] == value
    }
}

# ---- Mounts

mounts_fit(wanted, spec, bundle, sandbox) if {
    print("mounts_fit: found", count(spec.Mounts), "wanted", count(wanted.Mounts))
    places := {place |
        some mount in spec.Mounts
        place := mount_place(wanted, mount, bundle, sandbox)
    }
    print("mounts_fit: places", places)
    count(places) == count(spec.Mounts)
}

mount_place(wanted, mount, bundle, sandbox) := place if {
    print("mount_place: mount", mount)
    some place, candidate in wanted.Mounts
    mount_fits(candidate, mount, bundle, sandbox)
    print("mount_place:", place)
}

mount_fits(candidate, mount, bundle, sandbox) if {
    candidate.source != ""
    print("mount_fits 1: wanted", candidate)
    candidate == mount
}

mount_fits(candidate, mount, bundle, sandbox) if {
    candidate.source != ""
    candidate.destination == mount.destination
    candidate.type_ == mount.type_
    candidate.options == mount.options
    print("mount_fits 2: wanted", candidate)
    source_fits(candidate, mount, bundle, sandbox)
}

mount_fits(candidate, mount, bundle, sandbox) if {
    candidate.type_ == "sysfs"
    mount.type_ == "sysfs"
    candidate.destination == mount.destination
    candidate.source == mount.source
    print("mount_fits 3: wanted", candidate)
    found := {option | some option in mount.options} | {"rw"}
    listed := {option | some option in candidate.options} | {"ro"}
    found == listed
}

mount_fits(candidate, mount, bundle, sandbox) if {
    candidate.type_ == "cgroup"
    mount.type_ == "cgroup"
    candidate.destination == mount.destination
    print("mount_fits 4: wanted", candidate)
    found := {option | some option in mount.options}
    listed := {option | some option in candidate.options}
    count(listed - found) == 0
    extra := found - listed
    print("mount_fits 4: extra", extra)
    every option in extra {
        option in policy_data.cluster_config.cgroup_mount_extras_allowed
    }
    regex.match(candidate.source, mount.source)
}

mount_fits(candidate, mount, bundle, sandbox) if {
    candidate.source == ""
    candidate.destination == mount.destination
    candidate.type_ == mount.type_
    candidate.options == mount.options
    print("mount_fits 5: wanted", candidate)
    some storage in input.storages
    storage.driver in {"blk", "scsi"}
    storage.mount_point == mount.source
}

source_fits(candidate, mount, bundle, sandbox) if {
    pattern := source_pattern(candidate.source, "$(bundle-id)", bundle)
    print("source_fits 1:", pattern)
    regex.match(pattern, mount.source)
}

source_fits(candidate, mount, bundle, sandbox) if {
    pattern := source_pattern(candidate.source, "$(sandbox-id)", sandbox)
    print("source_fits 2:", pattern)
    regex.match(pattern, mount.source)
}

source_pattern(text, placeholder, id) := pattern if {
    prefixed := replace(text, "$(sfprefix)", policy_data.common.sfprefix)
    shared := replace(prefixed, "$(cpath)", policy_data.common.cpath)
    pattern := replace(shared, placeholder, id)
}

# ---- Storages

storages_fit(candidate, bundle, sandbox) if {
    found := count(input.storages)
    pulled := count([storage | some storage in input.storages; storage.driver == "image_guest_pull"])
    print("storages_fit: found", found, "pulled", pulled, "wanted", count(candidate.storages))
    count(candidate.storages) == found - pulled
    every storage in input.storages {
        storage_fits(candidate, storage, bundle, sandbox)
    }
    print("storages_fit: true")
}

storage_fits(candidate, storage, bundle, sandbox) if {
    some wanted in candidate.storages
    print("storage_fits 1: found", storage, "wanted", wanted)
    wanted.driver == storage.driver
    storage_source_fits(wanted, storage, bundle)
    storage_rest_fits(wanted, storage, bundle, sandbox)
}

storage_fits(candidate, storage, bundle, sandbox) if {
    print("storage_fits 2: found", storage)
    storage.driver == "image_guest_pull"
    storage.fstype == "overlay"
    storage.fs_group == null
    storage.shared == false
    count(storage.options) == 0
    rooted := replace(policy_data.common.root_path, "$(bundle-id)", bundle)
    print("storage_fits 2: mount point", rooted)
    storage.mount_point == rooted
}

storage_fits(candidate, storage, bundle, sandbox) if {
    storage.driver == "scsi"
    print("storage_fits 3: source", storage.source)
    regex.match("^[0-9]+:[0-9]+$", storage.source)
    some wanted in candidate.storages
    storage_rest_fits(wanted, storage, bundle, sandbox)
}

storage_fits(candidate, storage, bundle, sandbox) if {
    storage.driver == "blk"
    print("storage_fits 4: source", storage.source)
    regex.match(`^[0-9a-f]{2}(?:/[0-9a-f]{2})?$`, storage.source)
    some wanted in candidate.storages
    storage_rest_fits(wanted, storage, bundle, sandbox)
}

storage_source_fits(wanted, storage, bundle) if {
    wanted.source == storage.source
}

storage_source_fits(wanted, storage, bundle) if {
    pattern := source_pattern(wanted.source, "$(bundle-id)", bundle)
    print("storage_source_fits 2:", pattern, storage.source)
    regex.match(pattern, storage.source)
}

storage_source_fits(wanted, storage, bundle) if {
    wanted.driver == "overlayfs"
    storage.source == "none"
}

storage_rest_fits(wanted, storage, bundle, sandbox) if {
    wanted.driver_options == storage.driver_options
    wanted.fs_group == storage.fs_group
    wanted.fstype == storage.fstype
    wanted.shared == storage.shared
    wanted.options == storage.options
    print("storage_rest_fits: mount point")
    mount_point_fits(wanted, storage, bundle, sandbox)
}

mount_point_fits(wanted, storage, bundle, sandbox) if {
    wanted.fstype == "local"
    pattern := source_pattern(wanted.mount_point, "$(sandbox-id)", sandbox)
    print("mount_point_fits 1:", pattern)
    regex.match(pattern, storage.mount_point)
}

mount_point_fits(wanted, storage, bundle, sandbox) if {
    wanted.fstype == "bind"
    pattern := source_pattern(wanted.mount_point, "$(bundle-id)", bundle)
    print("mount_point_fits 2:", pattern)
    regex.match(pattern, storage.mount_point)
}

mount_point_fits(wanted, storage, bundle, sandbox) if {
    wanted.fstype == "tmpfs"
    print("mount_point_fits 3:", wanted.mount_point)
    regex.match(wanted.mount_point, storage.mount_point)
}

mount_point_fits(wanted, storage, bundle, sandbox) if {
    storage.driver in {"blk", "scsi"}
    shared := replace(wanted.mount_point, "$(spath)", policy_data.common.spath)
    expected := replace(shared, "$(b64_device_id)", base64url.encode(storage.source))
    print("mount_point_fits 4:", expected)
    expected == storage.mount_point
}

# ---- Devices

devices_fit(candidate) if {
    prefix := policy_data.devices.vfio.device_path
    passed := [device | some device in input.devices; startswith(device.container_path, prefix)]
    ordinary := [device | some device in input.devices; not startswith(device.container_path, prefix)]
    print("devices_fit: passed", passed, "ordinary", ordinary)
    every device in ordinary {
        some wanted in candidate.devices
        device.container_path == wanted.container_path
    }
    numbers := {number | some device in passed; number := trim_prefix(device.container_path, prefix)}
    labelled := {number |
        some key, _ in input.OCI.Annotations
        startswith(key, "cdi.k8s.io/vfio")
        number := trim_prefix(key, "cdi.k8s.io/vfio")
    }
    print("devices_fit: numbers", numbers, labelled)
    numbers == labelled
    every device in passed {
        passed_device_fits(candidate, device)
    }
}

passed_device_fits(candidate, device) if {
    some wanted in candidate.devices
    wanted.type_ == device.type_
    wanted.vm_path == device.vm_path
    count(device.options) > 0
    every option in device.options {
        regex.match(`^[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]=[0-9a-f]{2}/[0-9a-f]{2}$`, option)
    }
}

# ---- Process

process_fits(wanted, spec, name, namespace) if {
    found := spec.Process
    listed := wanted.Process
    print("process_fits: found", found)
    args_fit(listed, found, name)
    process_common(listed, found, name, namespace)
    capabilities_fit(listed.Capabilities, found.Capabilities)
    print("process_fits: terminal: found", found.Terminal, "wanted", listed.Terminal)
    listed.Terminal == found.Terminal
    print("process_fits: true")
}

process_common(wanted, found, name, namespace) if {
    print("process_common: directory: found", found.Cwd, "wanted", wanted.Cwd)
    wanted.Cwd == found.Cwd
    print("process_common: privileges: found", found.NoNewPrivileges, "wanted", wanted.NoNewPrivileges)
    wanted.NoNewPrivileges == found.NoNewPrivileges
    user_fits(wanted, found)
    env_fits(wanted, found, name, namespace)
}

user_fits(wanted, found) if {
    print("user_fits: found", found.User, "wanted", wanted.User)
    wanted.User.UID == found.User.UID
    wanted.User.GID == found.User.GID
    listed := {gid | some gid in wanted.User.AdditionalGids}
    gids := {gid | some gid in found.User.AdditionalGids}
    print("user_fits: groups: found", gids, "wanted", listed)
    listed == gids
}

args_fit(wanted, found, name) if {
    print("args_fit 1: none")
    not wanted.Args
    not found.Args
}

args_fit(wanted, found, name) if {
    print("args_fit 2: found", found.Args, "wanted", wanted.Args)
    count(wanted.Args) == count(found.Args)
    every index, arg in found.Args {
        arg_fits(index, arg, wanted, name)
    }
}

arg_fits(index, arg, wanted, name) if {
    plain := replace(wanted.Args[index], "$$", "$")
    print("arg_fits 1: found", arg, "wanted", plain)
    plain == arg
}

arg_fits(index, arg, wanted, name) if {
    print("arg_fits 2:", wanted.Args[index])
    contains(wanted.Args[index], "$(node-name)")
}

arg_fits(index, arg, wanted, name) if {
    named := replace(wanted.Args[index], "$(sandbox-name)", name)
    print("arg_fits 3:", named)
    named == arg
}

env_fits(wanted, found, name, namespace) if {
    print("env_fits 1: none")
    not wanted.Env
    not found.Env
}

env_fits(wanted, found, name, namespace) if {
    print("env_fits 2: found", found.Env, "wanted", wanted.Env)
    every variable in found.Env {
        print("env_fits 2:", variable)
        variable_fits(wanted, variable, name, namespace)
    }
    print("env_fits 2: true")
}

# The same text.
variable_fits(wanted, variable, name, namespace) if {
    some text in wanted.Env
    text == variable
    print("variable_fits 1: true")
}

# The name of the pod.
variable_fits(wanted, variable, name, namespace) if {
    some text in wanted.Env
    parts := split(text, "=")
    count(parts) == 2
    parts[1] == "$(sandbox-name)"
    found := split(variable, "=")
    count(found) == 2
    parts[0] == found[0]
    print("variable_fits 2:", name, found[1])
    regex.match(name, found[1])
}

# What Kubernetes adds by itself.
variable_fits(wanted, variable, name, namespace) if {
    some raw in policy_data.request_defaults.CreateContainerRequest.allow_env_regex
    addressed := replace(raw, "$(ipv4_a)", policy_data.common.ipv4_a)
    ported := replace(addressed, "$(ip_p)", policy_data.common.ip_p)
    served := replace(ported, "$(svc_name_downward_env)", policy_data.common.svc_name_downward_env)
    pattern := replace(served, "$(dns_label)", policy_data.common.dns_label)
    print("variable_fits 3:", pattern, variable)
    regex.match(pattern, variable)
    print("variable_fits 3: true")
}

variable_fits(wanted, variable, name, namespace) if {
    address_variable(wanted, variable, "$(pod-ip)")
    print("variable_fits 4: true")
}

variable_fits(wanted, variable, name, namespace) if {
    open_variable(wanted, variable, ["$(host-name)", "$(node-name)", "$(pod-uid)"])
    print("variable_fits 5: true")
}

variable_fits(wanted, variable, name, namespace) if {
    address_variable(wanted, variable, "$(host-ip)")
    print("variable_fits 6: true")
}

variable_fits(wanted, variable, name, namespace) if {
    open_variable(wanted, variable, ["$(resource-field)", "$(todo-annotation)"])
    print("variable_fits 7: true")
}

variable_fits(wanted, variable, name, namespace) if {
    some text in wanted.Env
    contains(text, "$(sandbox-namespace)")
    print("variable_fits 8:", text, namespace)
    replace(text, "$(sandbox-namespace)", namespace) == variable
}

address_variable(wanted, variable, placeholder) if {
    parts := split(variable, "=")
    count(parts) == 2
    is_address(parts[1])
    print("address_variable:", placeholder, variable)
    some text in wanted.Env
    text == concat("=", [parts[0], placeholder])
}

is_address(text) if {
    bytes := split(text, ".")
    count(bytes) == 4
    first := to_number(bytes[0])
    first >= 1
    first <= 255
    every byte in bytes {
        number := to_number(byte)
        number >= 0
        number <= 255
    }
}

open_variable(wanted, variable, placeholders) if {
    parts := split(variable, "=")
    count(parts) == 2
    some text in wanted.Env
    listed := split(text, "=")
    count(listed) == 2
    listed[0] == parts[0]
    print("open_variable: wanted", text, "found", variable)
    some placeholder in placeholders
    contains(listed[1], placeholder)
}

capabilities_fit(wanted, found) if {
    print("capabilities_fit: found", found, "wanted", wanted)
    list_fits(wanted.Ambient, found.Ambient)
    list_fits(wanted.Bounding, found.Bounding)
    list_fits(wanted.Effective, found.Effective)
    list_fits(wanted.Inheritable, found.Inheritable)
    list_fits(wanted.Permitted, found.Permitted)
    print("capabilities_fit: true")
}

list_fits(wanted, found) if {
    listed := {short_capability(name) | some name in wanted}
    own := {short_capability(name) | some name in found}
    print("list_fits 1: found", own, "wanted", listed)
    own == listed
}

list_fits(wanted, found) if {
    wanted == ["$(default_caps)"]
    list_fits_common(policy_data.common.default_caps, found)
}

list_fits(wanted, found) if {
    wanted == ["$(privileged_caps)"]
    list_fits_common(policy_data.common.privileged_caps, found)
}

list_fits_common(common, found) if {
    listed := {short_capability(name) | some name in common}
    own := {short_capability(name) | some name in found}
    print("list_fits_common: found", own, "wanted", listed)
    own == listed
}

short_capability(name) := substring(name, 4, -1) if {
    startswith(name, "CAP_")
} else := name

# ---- Requests about containers that exist

RemoveContainerRequest := {"ops": [state_op("remove", input.container_id)], "allowed": true} if {
    print("RemoveContainer:", input.container_id)
    known(input.container_id)
}

ExecProcessRequest if {
    print("ExecProcess: request", input)
    is_null(input.string_user)
    count(input.process.SelinuxLabel) == 0
    count(input.process.ApparmorProfile) == 0
    container := policy_data.containers[stored[input.container_id]]
    command_fits(container)
    process_common(container.OCI.Process, input.process, container.OCI.Annotations[sandbox_name_key], stored.namespace)
    every list in ["Ambient", "Bounding", "Effective", "Inheritable", "Permitted"] {
        not input.process.Capabilities[list]
    }
    print("ExecProcess: true")
}

command_fits(container) if {
    some command in policy_data.request_defaults.ExecProcessRequest.allowed_commands
    command == input.process.Args
}

command_fits(container) if {
    some command in container.exec_commands
    command == input.process.Args
    container.OCI.Process.Terminal == input.process.Terminal
}

command_fits(container) if {
    joined := concat(" ", input.process.Args)
    some pattern in policy_data.request_defaults.ExecProcessRequest.regex
    print("command_fits 3:", pattern, joined)
    regex.match(pattern, joined)
}

# ---- Sandbox, files, network

CreateSandboxRequest if {
    print("CreateSandbox: request", input)
    count(input.guest_hook_path) == 0
    count(input.kernel_modules) == 0
    input.sandbox_pidns == false
    every storage in input.storages {
        storage in policy_data.sandbox.storages
    }
}

CopyFileRequest if {
    print("CopyFile: request", input)
    input.file_type in {"Regular", "Directory"}
    not climbs(input.path)
    copy_target(input.path, "")
}

CopyFileRequest if {
    input.file_type == "Symlink"
    not climbs(input.path)
    not climbs(input.symlink_target)
    not startswith(input.symlink_target, "/")
    copy_target(input.path, ".*/.+")
}

climbs(path) if {
    regex.match(`(?:^|/)\.\.(?:$|/)`, path)
}

copy_target(path, suffix) if {
    some raw in policy_data.request_defaults.CopyFileRequest
    prefixed := replace(raw, "$(sfprefix)", policy_data.common.sfprefix)
    shared := replace(prefixed, "$(cpath)", policy_data.common.cpath)
    bundled := replace(shared, "$(bundle-id)", "[a-z0-9]{64}")
    pattern := concat("", [bundled, suffix])
    print("copy_target:", pattern, path)
    regex.match(pattern, path)
}

UpdateInterfaceRequest if {
    link := input.interface
    print("UpdateInterface:", link)
    excess := bits.and(link.raw_flags, bits.negate(policy_data.request_defaults.UpdateInterfaceRequest.allow_raw_flags))
    excess == 0
    not link.name in policy_data.request_defaults.UpdateInterfaceRequest.forbidden_names
    not link.hwAddr in policy_data.request_defaults.UpdateInterfaceRequest.forbidden_hw_addrs
}

UpdateRoutesRequest if {
    print("UpdateRoutes:", input.routes)
    every route in input.routes.Routes {
        not route.device in policy_data.request_defaults.UpdateRoutesRequest.forbidden_device_names
        not forbidden_source(route.source)
    }
}

forbidden_source(source) if {
    some pattern in policy_data.request_defaults.UpdateRoutesRequest.forbidden_source_regex
    regex.match(pattern, source)
}

AddARPNeighborsRequest if {
    every neighbor in input.neighbors.ARPNeighbors {
        neighbor_fits(neighbor, policy_data.request_defaults.AddARPNeighborsRequest)
    }
}

neighbor_fits(neighbor, defaults) if {
    print("neighbor_fits:", neighbor)
    not neighbor.device in defaults.forbidden_device_names
    neighbor.toIPAddress.mask == ""
    every pattern in defaults.forbidden_cidrs_regex {
        not regex.match(pattern, neighbor.toIPAddress.address)
    }
    neighbor.state in defaults.allowed_states
    bits.or(neighbor.flags, 136) == 136
}

CloseStdinRequest if policy_data.request_defaults.CloseStdinRequest == true

ReadStreamRequest if policy_data.request_defaults.ReadStreamRequest == true

UpdateEphemeralMountsRequest if policy_data.request_defaults.UpdateEphemeralMountsRequest == true

WriteStreamRequest if policy_data.request_defaults.WriteStreamRequest == true

GetDiagnosticDataRequest if policy_data.request_defaults.GetDiagnosticDataRequest == true
