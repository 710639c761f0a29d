# CopyFile: only below the directory for shared files, in an entry that bears a container's id.
package agent_policy

import rego.v1

default CopyFileRequest := false

CopyFileRequest if {
	one_of("copied file: type", object.get(input, "file_type", "Regular"), ["Directory", "Regular", "Symlink"])
	copy_allowed(input.path, [target | some target in copied_links; not target in {"", null}])
}

# Target of a link: the agent of AKS calls it symlink_src, and gives an empty text for what is no link.
copied_links := [object.get(input, name, "") | some name in ["symlink_src", "symlink_target"]]

# A link is allowed inside a copied directory, and only to something next to it or below.
copy_allowed(path, links) if {
	every text in array.concat(links, [path]) {
		not ".." in split(text, "/")
	}
	every link in links {
		not startswith(link, "/")
	}
	some pattern in copy_patterns
	regex.match(concat("", [pattern, ["", "[^/]+/."][count(links)]]), path)
}

else := unlike("copied file", [path, links], copy_patterns)

copy_patterns := [replace(strings.replace_n(common_texts, strings.replace_n(common_texts, pattern)), "$(bundle-id)", "[0-9a-f]{64}") |
	some pattern in policy_data.request_defaults.CopyFileRequest
]
