import { runProcess } from "./process.ts";
import { runCli } from "./program.ts";

await runProcess(process, runCli);
