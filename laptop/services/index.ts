export { ATTESTATION_RESOURCE } from "./owner-tokens.ts";
export { explainVaultRelease } from "./audit.ts";
export { SERVICES_ERRORS, ServicesError, type ServicesErrorCode } from "./errors.ts";
export { laptopFetch, type LaptopFetch, type Route } from "./fetch.ts";
export { openLaptopAuthority } from "./laptop-authority.ts";
export { requestServiceAccountToken, type TokenRequest } from "./kube.ts";
export { requestOwnerToken } from "./owner.ts";
export { startServices, type RunningServices, type ServicesOptions } from "./start.ts";
export { readUp, upFile, type Endpoints, type Sockets, type Up } from "./up.ts";
