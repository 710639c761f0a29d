# Network: the host sets up the pod's interfaces, but not the loopback, which the pod trusts.
package agent_policy

import rego.v1

default UpdateInterfaceRequest := false

UpdateInterfaceRequest if {
	barred("interface: name", input.interface.name, interface_limits.forbidden_names)
	barred("interface: hwAddr", input.interface.hwAddr, interface_limits.forbidden_hw_addrs)
	same("interface: raw_flags", bits.and(input.interface.raw_flags, bits.negate(interface_limits.allow_raw_flags)), 0)
}

# IFF_NOARP (128) is all that the runtime asks for.
interface_limits := object.get(policy_data.request_defaults, "UpdateInterfaceRequest", {
	"allow_raw_flags": 128,
	"forbidden_hw_addrs": ["00:00:00:00:00:00"],
	"forbidden_names": ["lo"],
})

default UpdateRoutesRequest := false

UpdateRoutesRequest if every route in input.routes.Routes {
	barred("route: device", route.device, route_limits.forbidden_device_names)
	unmatched("route: source", route.source, route_limits.forbidden_source_regex)
	unmatched("route: dest", route.dest, route_limits.forbidden_source_regex)
}

route_limits := object.get(policy_data.request_defaults, "UpdateRoutesRequest", {
	"forbidden_device_names": ["lo"],
	"forbidden_source_regex": [`^(?:127\.|::1(?:$|/)|0*(?::0*){7}0*1(?:$|/)|(?:::|(?:0*:){6})[fF]{4}:127\.)`],
})

default AddARPNeighborsRequest := false

AddARPNeighborsRequest if {
	limits := object.get(policy_data.request_defaults, "AddARPNeighborsRequest", {})
	every neighbor in input.neighbors.ARPNeighbors {
		barred("neighbor: device", neighbor.device, limits.forbidden_device_names)
		unmatched("neighbor: address", neighbor.toIPAddress.address, limits.forbidden_cidrs_regex)
		same("neighbor: mask", neighbor.toIPAddress.mask, "")
		one_of("neighbor: state", neighbor.state, limits.allowed_states)

		# NTF_ROUTER (128) and NTF_EXT_MANAGED (8)
		same("neighbor: flags", bits.or(neighbor.flags, 136), 136)
	}
}

barred(what, found, list) if not found in list

else := unlike(what, found, "others")

unmatched(what, found, patterns) if every pattern in patterns {
	not regex.match(pattern, found)
}

else := unlike(what, found, "others")
