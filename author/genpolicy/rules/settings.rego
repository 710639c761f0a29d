# Requests that a setting decides.
package agent_policy

import rego.v1

ReadStreamRequest := setting("ReadStreamRequest", false)

WriteStreamRequest := setting("WriteStreamRequest", false)

# End of input is input: where there is no setting of its own, who may not write may not close either.
CloseStdinRequest := setting("CloseStdinRequest", WriteStreamRequest)

UpdateEphemeralMountsRequest := setting("UpdateEphemeralMountsRequest", false)

GetDiagnosticDataRequest := setting("GetDiagnosticDataRequest", false)

# What is neither true nor false is no.
setting(name, value) := object.get(policy_data.request_defaults, name, value) == true
