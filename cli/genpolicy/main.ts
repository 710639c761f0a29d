import { runProcess } from "../process.ts";
import { runGenpolicyCli } from "../program.ts";

// The bin `genpolicy`: what `sealpod genpolicy` is, under the name that scripts know.
await runProcess(process, runGenpolicyCli);
