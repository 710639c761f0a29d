export { openCredentials } from "./credentials.ts";
export { dockerConfigPath } from "./docker-config.ts";
export type { Credentials } from "./docker-config.ts";
export type { CredentialHelperResult, RegistryOptions, RegistryPorts } from "./ports.ts";
export { openRegistry } from "./registry.ts";
