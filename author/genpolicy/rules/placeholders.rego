# Values of the running pod in texts of the policy.
package agent_policy

import rego.v1

# -- paths

# A text that begins with ^, once its placeholders are replaced, is a pattern for the whole value; others are plain text.
fits(found, wanted) := regex.match(concat("", [wanted, "$"]), found) if startswith(wanted, "^")

else := found == wanted

expand(text) := text if not contains(text, "$(")

else := strings.replace_n(live_names, strings.replace_n(common_texts, strings.replace_n(common_texts, text)))

live_names := {
	"$(bundle-id)": request.container_id,
	"$(sandbox-id)": sandbox.id,
	"$(sandbox-name)": literal(sandbox.name),
	"$(sandbox-namespace)": literal(sandbox.namespace),
}

common_texts := {concat("", ["$(", name, ")"]): text | some name, text in policy_data.common; is_string(text)}

# A regular expression that matches this text and nothing else.
literal(text) := regex.replace(text, `[\\.+*?()|\[\]{}^$]`, `\$0`)

# -- arguments and environment: everything but the placeholders is plain text, with $$ for a $

text_fits(found, wanted) if {
	found == wanted
	not contains(wanted, "$")
}

text_fits(found, wanted) if {
	contains(wanted, "$")
	regex.match(text_pattern(wanted), found)
}

# A placeholder that has no form here matches nothing.
text_pattern(text) := concat("", ["^", pattern, "$"]) if {
	pattern := strings.replace_n(forms, literal(text))
	not contains(pattern, `\$`)
}

forms[`\$\$`] := "[$]"

forms[`\$\(sandbox-name\)`] := literal(sandbox.name)

forms[`\$\(sandbox-namespace\)`] := literal(sandbox.namespace)

# As kubelet cuts it.
forms[`\$\(host-name\)`] := literal(trim_right(substring(sandbox.name, 0, 63), "-.")) if not is_foreign

forms[`\$\(pod-uid\)`] := sandbox.uid if regex.match(`^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$`, sandbox.uid)

forms[`\$\(node-name\)`] := dns_name

forms[`\$\(pod-ip\)`] := address

forms[`\$\(host-ip\)`] := address

forms[`\$\(pod-ips\)`] := addresses

forms[`\$\(host-ips\)`] := addresses

forms[`\$\(resource-field\)`] := `[0-9]{1,20}`

forms[`\$\(job-index\)`] := `(?:0|[1-9][0-9]{0,9})`

forms[`\$\(label\)`] := `(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?`

dns_name := `[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?`

address := concat("", ["(?:", policy_data.common.ipv4_a, "|[0-9a-f:]{2,39})"])

addresses := concat("", [address, "(?:,", address, ")?"])
