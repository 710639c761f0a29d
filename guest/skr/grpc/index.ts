export { keyProviderMethods, type KeyProviderOptions } from "../key-provider.ts";
export { createGrpcServer, type GrpcMethod, type GrpcServerOptions } from "./server.ts";
