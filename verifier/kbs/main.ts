import { runServiceMain } from "@sealpod/service";
import { kbsProgram } from "./server.ts";

await runServiceMain((ports) => kbsProgram(ports), process);
