import { runServiceMain } from "@sealpod/service";
import { attestationProgram } from "./server.ts";

await runServiceMain(attestationProgram, process);
