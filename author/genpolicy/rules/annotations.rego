# CreateContainer: annotations. The guest acts on none but those by which the rules tell pods and containers apart, so one may be left out.
package agent_policy

import rego.v1

annotations_allowed if every key, value in annotations {
	annotation_allowed(key, value)
}

annotation_allowed(key, value) if annotation_known(key, value)

else := unlike(concat("", ["annotation ", key]), value, object.get(container.OCI.Annotations, key, null))

# What the runtime writes may be given as a pattern; what the pod's author writes is compared as it is.
annotation_known(key, value) if {
	regex.match(runtime_annotation, key)
	fits(value, expand(container.OCI.Annotations[key]))
}

annotation_known(key, value) if {
	not regex.match(runtime_annotation, key)
	value == container.OCI.Annotations[key]
}

# Kubernetes' own, of which the policy says nothing.
annotation_known(key, _) if {
	startswith(key, "io.kubernetes.cri.")
	not container.OCI.Annotations[key]
}

# containerd may spell the image's name in another way; the image is pinned by its hashes.
annotation_known(key, _) if key == "io.kubernetes.cri.image-name"

# A manifest without namespace goes where it is sent; `sandbox` keeps the pod together.
annotation_known("io.kubernetes.cri.sandbox-namespace", _) if container.OCI.Annotations["io.kubernetes.cri.sandbox-namespace"] == ""

annotation_known(key, value) if {
	some key_pattern, value_pattern in object.get(container, "runtime_anno_patterns", {})
	regex.match(key_pattern, key)
	regex.match(value_pattern, value)
}

runtime_annotation := `^(?:io\.kubernetes\.cri\.|io\.katacontainers\.pkg\.|nerdctl/)`
