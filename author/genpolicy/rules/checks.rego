# Checks that say why they fail. A refusal prints one line: what, what was found, what the policy allows.
package agent_policy

import rego.v1

# Prints the reason. Never true.
refuse(reason) := false if print(concat("", [subject, reason]))

unlike(what, found, wanted) := refuse(concat("", [what, ": found ", shown(found), ", policy allows ", shown(wanted)]))

same(what, found, wanted) if found == wanted

else := unlike(what, found, wanted)

one_of(what, found, wanted) if found in wanted

else := unlike(what, found, wanted)

# For what the policy may give as a pattern.
fit(what, found, wanted) if fits(found, wanted)

else := unlike(what, found, wanted)

# Each of these fields is as in the policy. A field that the policy leaves out has the value that the table gives.
alike(what, found, wanted, fields) if every path, value in fields {
	same(concat("", [what, path]), object.get(found, split(path, "."), "missing"), object.get(wanted, split(path, "."), value))
}

# Text for a reason, at most 400 characters: the host chooses what is found.
shown(value) := substring(json.marshal(value), 0, 400)
