# Rules in the dialect of the Kata policies of 2023 (Rego v0: bodies without `if`), written for this benchmark: the same constructs
# in the same numbers, not the same checks. They protect nothing; sealpod's own rules are in author/genpolicy/data.
package agent_policy

import future.keywords.in
import future.keywords.every
import input

default AllowRequestsFailingPolicy := false
default CopyFileRequest := false
default CreateContainerRequest := false
default CreateSandboxRequest := false
default DestroySandboxRequest := true
default ExecProcessRequest := false
default GetOOMEventRequest := true
default GuestDetailsRequest := true
default OnlineCPUMemRequest := true
default PullImageRequest := true
default ReadStreamRequest := false
default RemoveContainerRequest := true
default RemoveStaleVirtiofsShareMountsRequest := true
default SignalProcessRequest := true
default StartContainerRequest := true
default StatsContainerRequest := true
default TtyWinResizeRequest := true
default UpdateEphemeralMountsRequest := false
default UpdateInterfaceRequest := true
default UpdateRoutesRequest := true
default WaitProcessRequest := true
default WriteStreamRequest := false

# ---- CreateContainer

CreateContainerRequest {
    found := input.OCI
    kept := input.storages

    print("CreateContainer: hooks", found.Hooks)
    is_null(found.Hooks)
    print("CreateContainer: seccomp", found.Linux.Seccomp)
    is_null(found.Linux.Seccomp)

    some container in policy_data.containers
    print("CreateContainer: ===== candidate")
    wanted := container.OCI
    listed := container.storages

    print("CreateContainer: version: found", found.Version, "wanted", wanted.Version)
    wanted.Version == found.Version
    print("CreateContainer: read-only root: found", found.Root.Readonly, "wanted", wanted.Root.Readonly)
    wanted.Root.Readonly == found.Root.Readonly

    names_fit(wanted, found)
    annotations_fit(wanted, found)
    linux_fits(wanted, found)
    identity_fits(wanted, found, listed, kept)
    print("CreateContainer: true")
}

# ---- Annotations

annotations_fit(wanted, found) {
    print("annotations_fit 1: none")
    not wanted.Annotations
    not found.Annotations
}

annotations_fit(wanted, found) {
    own := object.keys(found.Annotations)
    print("annotations_fit 2: keys", own)
    every key in own {
        annotation_fits(key, wanted.Annotations)
    }
    print("annotations_fit 2: true")
}

annotation_fits(key, listed) {
    print("annotation_fits 1:", key)
    listed[key]
}

annotation_fits(key, listed) {
    print("annotation_fits 2:", key)
    startswith(key, "io.kubernetes.cri.")
}

names_fit(wanted, found) {
    key := "io.kubernetes.cri.sandbox-name"
    name_fits(wanted.Annotations, found.Annotations[key], key)

    space := "io.kubernetes.cri.sandbox-namespace"
    print("names_fit: namespace: found", found.Annotations[space], "wanted", wanted.Annotations[space])
    wanted.Annotations[space] == found.Annotations[space]

    container := "io.kubernetes.cri.container-name"
    container_name_fits(wanted.Annotations, found.Annotations, container)
}

name_fits(listed, name, key) {
    not listed[key]
    print("name_fits 1: any")
}

name_fits(listed, name, key) {
    print("name_fits 2: found", name, "wanted", listed[key])
    listed[key] == name
}

name_fits(listed, name, key) {
    contains(listed[key], "$(generated-name)")
    print("name_fits 3: generated", name)
}

container_name_fits(listed, own, key) {
    not listed[key]
    not own[key]
    print("container_name_fits 1: none")
}

container_name_fits(listed, own, key) {
    print("container_name_fits 2: found", own[key], "wanted", listed[key])
    listed[key] == own[key]
}

# ---- Linux

linux_fits(wanted, found) {
    print("linux_fits: found", found.Linux.Namespaces, "wanted", wanted.Linux.Namespaces)
    wanted.Linux.Namespaces == found.Linux.Namespaces
    masked_fit(wanted, found)
    readonly_fit(wanted, found)
    print("linux_fits: true")
}

masked_fit(wanted, found) {
    print("masked_fit: found", found.Linux.MaskedPaths)
    every path in wanted.Linux.MaskedPaths {
        path_among(path, found.Linux.MaskedPaths)
    }
}

readonly_fit(wanted, found) {
    print("readonly_fit: found", found.Linux.ReadonlyPaths)
    every path in wanted.Linux.ReadonlyPaths {
        path_protected(path, found.Linux)
    }
}

path_protected(path, linux) {
    path_among(path, linux.ReadonlyPaths)
}

path_protected(path, linux) {
    path_among(path, linux.MaskedPaths)
}

path_among(path, paths) {
    some other in paths
    path == other
}

# ---- What depends on the ids of sandbox and bundle

identity_fits(wanted, found, listed, kept) {
    sandbox := found.Annotations["io.kubernetes.cri.sandbox-id"]
    print("identity_fits: sandbox", sandbox)
    regex.match(wanted.Annotations["io.kubernetes.cri.sandbox-id"], sandbox)

    path := found.Annotations["io.katacontainers.pkg.oci.bundle_path"]
    bundle := replace(path, "/run/containerd/io.containerd.runtime.v2.task/k8s.io/", "")
    print("identity_fits: bundle", bundle)

    type_fits(wanted, found)
    root_fits(wanted, found, bundle)
    mounts_fit(wanted, found, bundle, sandbox)
    storages_fit(listed, kept, bundle, sandbox)
    process_fits(wanted, found)
    print("identity_fits: true")
}

type_fits(wanted, found) {
    key := "io.kubernetes.cri.container-type"
    print("type_fits: found", found.Annotations[key], "wanted", wanted.Annotations[key])
    wanted.Annotations[key] == found.Annotations[key]
    package_type(found.Annotations[key]) == found.Annotations["io.katacontainers.pkg.oci.container_type"]
}

package_type("sandbox") = "pod_sandbox"

package_type("container") = "pod_container"

root_fits(wanted, found, bundle) {
    shared := replace(wanted.Root.Path, "$(cpath)", policy_data.common.cpath)
    path := replace(shared, "$(bundle-id)", bundle)
    print("root_fits: found", found.Root.Path, "wanted", path)
    path == found.Root.Path
}

# ---- Mounts

mounts_fit(wanted, found, bundle, sandbox) {
    print("mounts_fit: found", found.Mounts)
    every mount in found.Mounts {
        mount_fits(wanted, mount, bundle, sandbox)
    }
    print("mounts_fit: true")
}

mount_fits(wanted, mount, bundle, sandbox) {
    print("mount_fits: found", mount)
    some candidate in wanted.Mounts
    print("mount_fits: wanted", candidate)
    one_mount_fits(candidate, mount, bundle, sandbox)
}

one_mount_fits(candidate, mount, bundle, sandbox) {
    candidate == mount
    print("one_mount_fits 1: true")
}

one_mount_fits(candidate, mount, bundle, sandbox) {
    candidate.destination == mount.destination
    candidate.type_ == mount.type_
    candidate.options == mount.options
    source_fits(candidate.source, mount.source, bundle, sandbox)
    print("one_mount_fits 2: true")
}

source_fits(text, source, bundle, sandbox) {
    prefixed := replace(text, "$(sfprefix)", policy_data.common.sfprefix)
    shared := replace(prefixed, "$(cpath)", policy_data.common.cpath)
    pattern := replace(shared, "$(bundle-id)", bundle)
    print("source_fits 1:", pattern)
    regex.match(pattern, source)
}

source_fits(text, source, bundle, sandbox) {
    shared := replace(text, "$(cpath)", policy_data.common.cpath)
    pattern := replace(shared, "$(sandbox-id)", sandbox)
    print("source_fits 2:", pattern)
    regex.match(pattern, source)
}

# ---- Storages: layers of the image by their root hashes, their overlay, volumes

storages_fit(listed, kept, bundle, sandbox) {
    print("storages_fit: found", count(kept), "wanted", count(listed))
    count(listed) == count(kept)
    ids := layer_part(listed, 0)
    hashes := layer_part(listed, 1)
    print("storages_fit: layers", ids, hashes)
    every storage in kept {
        storage_fits(listed, storage, bundle, sandbox, ids, hashes)
    }
    print("storages_fit: true")
}

layer_part(listed, part) := parts {
    some storage in listed
    storage.driver == "overlayfs"
    count(storage.options) == 2
    parts := split(storage.options[part], ":")
}

storage_fits(listed, storage, bundle, sandbox, ids, hashes) {
    some wanted in listed
    print("storage_fits: found", storage, "wanted", wanted)
    wanted.driver == storage.driver
    wanted.driver_options == storage.driver_options
    wanted.fs_group == storage.fs_group
    options_fit(wanted, storage, ids, hashes)
    mount_point_fits(wanted, storage, bundle, sandbox, ids)
    print("storage_fits: true")
}

options_fit(wanted, storage, ids, hashes) {
    wanted.driver != "blk"
    wanted.driver != "overlayfs"
    print("options_fit 1: found", storage.options)
    wanted.options == storage.options
}

options_fit(wanted, storage, ids, hashes) {
    wanted.driver == "overlayfs"
    print("options_fit 2: found", storage.options)
    count(storage.options) == count(ids) + 3
    startswith(storage.options[0], "io.katacontainers.fs-opt.layer-src-prefix=")
    layers_fit(storage.options, ids, hashes)
    storage.options[count(ids) + 1] == "io.katacontainers.fs-opt.overlay-rw"
    lower := concat("=", ["lowerdir", concat(":", ids)])
    print("options_fit 2: lower", lower)
    storage.options[count(ids) + 2] == lower
}

options_fit(wanted, storage, ids, hashes) {
    wanted.driver == "blk"
    some option in wanted.options
    startswith(option, "$(hash")
    number := to_number(trim_right(trim_left(option, "$(hash"), ")"))
    print("options_fit 3: layer", number)
    count(storage.options) == 4
    storage.options[0] == "ro"
    endswith(storage.options[1], "block_device=file")
    endswith(storage.options[2], "is-layer")
    hash := trim_left(storage.options[3], "io.katacontainers.fs-opt.root-hash")
    print("options_fit 3: hash", hash)
    trim_left(hash, "=") == hashes[number]
}

layers_fit(options, ids, hashes) {
    every index, id in ids {
        layer_fits(options[index + 1], id, hashes[index])
    }
}

layer_fits(option, id, hash) {
    encoded := replace(option, "io.katacontainers.fs-opt.layer=", "")
    decoded := base64.decode(encoded)
    parts := split(decoded, ",")
    print("layer_fits: parts", parts)
    parts[0] == id
    parts[1] == "tar"
    parts[2] == "ro"
    parts[5] == concat("", ["io.katacontainers.fs-opt.root-hash=", hash])
}

mount_point_fits(wanted, storage, bundle, sandbox, ids) {
    wanted.fstype == "tar"
    startswith(wanted.mount_point, "$(layer")
    number := to_number(trim_right(trim_left(wanted.mount_point, "$(layer"), ")"))
    path := concat("", ["/run/kata-containers/sandbox/layers/", ids[number]])
    print("mount_point_fits 1: found", storage.mount_point, "wanted", path)
    path == storage.mount_point
}

mount_point_fits(wanted, storage, bundle, sandbox, ids) {
    wanted.fstype == "fuse3.kata-overlay"
    shared := replace(wanted.mount_point, "$(cpath)", policy_data.common.cpath)
    path := replace(shared, "$(bundle-id)", bundle)
    print("mount_point_fits 2: found", storage.mount_point, "wanted", path)
    path == storage.mount_point
}

mount_point_fits(wanted, storage, bundle, sandbox, ids) {
    wanted.fstype == "local"
    shared := replace(wanted.mount_point, "$(cpath)", policy_data.common.cpath)
    pattern := replace(shared, "$(sandbox-id)", sandbox)
    print("mount_point_fits 3:", pattern)
    regex.match(pattern, storage.mount_point)
}

mount_point_fits(wanted, storage, bundle, sandbox, ids) {
    wanted.fstype == "bind"
    shared := replace(wanted.mount_point, "$(cpath)", policy_data.common.cpath)
    pattern := replace(shared, "$(bundle-id)", bundle)
    print("mount_point_fits 4:", pattern)
    regex.match(pattern, storage.mount_point)
}

mount_point_fits(wanted, storage, bundle, sandbox, ids) {
    wanted.fstype == "tmpfs"
    print("mount_point_fits 5:", wanted.mount_point)
    regex.match(wanted.mount_point, storage.mount_point)
}

# ---- Process

process_fits(wanted, found) {
    own := found.Process
    listed := wanted.Process
    name := found.Annotations["io.kubernetes.cri.sandbox-name"]
    space := found.Annotations["io.kubernetes.cri.sandbox-namespace"]
    print("process_fits: found", own, "wanted", listed)
    listed.Terminal == own.Terminal
    listed.Cwd == own.Cwd
    listed.NoNewPrivileges == own.NoNewPrivileges
    user_fits(listed, own)
    capabilities_fit(listed.Capabilities, own.Capabilities)
    args_fit(listed, own, name)
    env_fits(listed, own, name, space)
    print("process_fits: true")
}

user_fits(listed, own) {
    print("user_fits: found", own.User.UID, "wanted", listed.User.UID)
    listed.User.UID == own.User.UID
}

args_fit(listed, own, name) {
    not listed.Args
    not own.Args
    print("args_fit 1: none")
}

args_fit(listed, own, name) {
    print("args_fit 2: found", own.Args, "wanted", listed.Args)
    count(listed.Args) == count(own.Args)
    every index, arg in own.Args {
        arg_fits(listed.Args[index], arg, name)
    }
}

arg_fits(wanted, arg, name) {
    plain := replace(wanted, "$$", "$")
    print("arg_fits 1: found", arg, "wanted", plain)
    plain == arg
}

arg_fits(wanted, arg, name) {
    contains(wanted, "$(node-name)")
    print("arg_fits 2: any")
}

arg_fits(wanted, arg, name) {
    named := replace(wanted, "$(sandbox-name)", name)
    print("arg_fits 3: found", arg, "wanted", named)
    named == arg
}

env_fits(listed, own, name, space) {
    not listed.Env
    not own.Env
    print("env_fits 1: none")
}

env_fits(listed, own, name, space) {
    print("env_fits 2: found", own.Env, "wanted", listed.Env)
    every variable in own.Env {
        variable_fits(listed, variable, name, space)
    }
    print("env_fits 2: true")
}

variable_fits(listed, variable, name, space) {
    some text in listed.Env
    text == variable
    print("variable_fits 1: true")
}

variable_fits(listed, variable, name, space) {
    some text in listed.Env
    named := replace(text, "$(sandbox-name)", name)
    print("variable_fits 2: found", variable, "wanted", named)
    named == variable
}

variable_fits(listed, variable, name, space) {
    some raw in policy_data.request_defaults.CreateContainerRequest.allow_env_regex
    addressed := replace(raw, "$(ipv4_a)", policy_data.common.ipv4_a)
    ported := replace(addressed, "$(ip_p)", policy_data.common.ip_p)
    served := replace(ported, "$(svc_name)", policy_data.common.svc_name)
    pattern := replace(served, "$(dns_label)", policy_data.common.dns_label)
    print("variable_fits 3:", pattern)
    regex.match(pattern, variable)
}

variable_fits(listed, variable, name, space) {
    address_fits(listed, variable, "$(pod-ip)")
    print("variable_fits 4: true")
}

variable_fits(listed, variable, name, space) {
    any_value_fits(listed, variable, "$(node-name)")
    print("variable_fits 5: true")
}

variable_fits(listed, variable, name, space) {
    address_fits(listed, variable, "$(host-ip)")
    print("variable_fits 6: true")
}

variable_fits(listed, variable, name, space) {
    any_value_fits(listed, variable, "$(resource-field)")
    print("variable_fits 7: true")
}

variable_fits(listed, variable, name, space) {
    some text in listed.Env
    contains(text, "$(sandbox-namespace)")
    replace(text, "$(sandbox-namespace)", space) == variable
    print("variable_fits 8: true")
}

address_fits(listed, variable, placeholder) {
    parts := split(variable, "=")
    count(parts) == 2
    is_address(parts[1])
    some text in listed.Env
    print("address_fits: found", variable, "wanted", text)
    text == concat("=", [parts[0], placeholder])
}

is_address(text) {
    bytes := split(text, ".")
    count(bytes) == 4
    every byte in bytes {
        is_byte(byte)
    }
}

is_byte(text) {
    number := to_number(text)
    number >= 0
    number <= 255
}

any_value_fits(listed, variable, placeholder) {
    parts := split(variable, "=")
    count(parts) == 2
    some text in listed.Env
    startswith(text, concat("", [parts[0], "="]))
    contains(text, placeholder)
}

capabilities_fit(listed, own) {
    print("capabilities_fit: found", own, "wanted", listed)
    list_fits(listed.Ambient, own.Ambient)
    list_fits(listed.Bounding, own.Bounding)
    list_fits(listed.Effective, own.Effective)
    list_fits(listed.Inheritable, own.Inheritable)
    list_fits(listed.Permitted, own.Permitted)
}

list_fits(listed, own) {
    listed == own
    print("list_fits 1: true")
}

list_fits(listed, own) {
    listed == ["$(default_caps)"]
    print("list_fits 2: found", own)
    own == policy_data.common.default_caps
}

list_fits(listed, own) {
    listed == ["$(privileged_caps)"]
    print("list_fits 3: found", own)
    own == policy_data.common.privileged_caps
}

# ---- Other requests

CreateSandboxRequest {
    print("CreateSandbox: hooks", input.guest_hook_path)
    count(input.guest_hook_path) == 0
    count(input.kernel_modules) == 0
    every storage in input.storages {
        sandbox_storage_fits(storage)
    }
}

sandbox_storage_fits(storage) {
    some wanted in policy_data.sandbox.storages
    print("sandbox_storage_fits: found", storage, "wanted", wanted)
    wanted == storage
}

CopyFileRequest {
    print("CopyFile: path", input.path)
    not climbs(input.path)
    link_fits
    some raw in policy_data.request_defaults.CopyFileRequest
    prefixed := replace(raw, "$(sfprefix)", policy_data.common.sfprefix)
    shared := replace(prefixed, "$(cpath)", policy_data.common.cpath)
    pattern := replace(shared, "$(bundle-id)", "[a-z0-9]{64}")
    print("CopyFile:", pattern)
    regex.match(pattern, input.path)
}

link_fits {
    input.symlink_src == ""
}

link_fits {
    not startswith(input.symlink_src, "/")
    not climbs(input.symlink_src)
}

climbs(path) {
    contains(path, "../")
}

climbs(path) {
    endswith(path, "/..")
}

climbs(path) {
    path == ".."
}

ExecProcessRequest {
    command := concat(" ", input.process.Args)
    print("ExecProcess 1:", command)
    some allowed in policy_data.request_defaults.ExecProcessRequest.commands
    allowed == command
}

ExecProcessRequest {
    command := concat(" ", input.process.Args)
    print("ExecProcess 2:", command)
    some container in policy_data.containers
    some allowed in container.exec_commands
    allowed == command
}

ExecProcessRequest {
    command := concat(" ", input.process.Args)
    some pattern in policy_data.request_defaults.ExecProcessRequest.regex
    print("ExecProcess 3:", pattern, command)
    regex.match(pattern, command)
}

ReadStreamRequest {
    policy_data.request_defaults.ReadStreamRequest == true
}

UpdateEphemeralMountsRequest {
    policy_data.request_defaults.UpdateEphemeralMountsRequest == true
}

WriteStreamRequest {
    policy_data.request_defaults.WriteStreamRequest == true
}
