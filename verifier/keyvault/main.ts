import { runServiceMain } from "@sealpod/service";
import { keyvaultProgram } from "./server.ts";

await runServiceMain((ports) => keyvaultProgram(ports), process);
