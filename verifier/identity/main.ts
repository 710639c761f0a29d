import { runServiceMain } from "@sealpod/service";
import { identityProgram } from "./server.ts";

await runServiceMain(identityProgram, process);
