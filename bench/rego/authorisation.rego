# Who may do what with a document: roles, owners, one level of delegation. Written for this benchmark.
package authorisation

import rego.v1

default allow := false

roles := {
	"admin": {"read", "write", "delete", "share"},
	"editor": {"read", "write"},
	"viewer": {"read"},
}

members := {"anna": ["admin"], "bert": ["editor", "viewer"], "cora": ["viewer"]}

allow if {
	some role in members[input.user]
	input.action in roles[role]
	not suspended
}

allow if {
	input.document.owner == input.user
	input.action != "delete"
}

allow if {
	some grant in input.document.grants
	grant.to == input.user
	input.action in grant.actions
	every tag in input.document.tags { tag != "secret" }
}

suspended if input.user in {"dora", "emil"}
