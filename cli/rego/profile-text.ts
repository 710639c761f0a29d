import type { ProfileRow } from "./observe.ts";
import { duration } from "./output.ts";
import { table } from "./table.ts";

/** A profile as a table, the costliest rule body first. Times are divided by `runs`. */
export function profileText(rows: readonly ProfileRow[], runs = 1): string {
  return table(
    [{ name: "TIME", align: "right" }, { name: "WITH CALLS", align: "right" }, { name: "EVALUATIONS", align: "right" }, { name: "RULE" }, { name: "LOCATION" }],
    rows.map(({ body, evaluations, self, total }) => [
      duration(self / runs),
      duration(total / runs),
      String(Math.round((evaluations / runs) * 10) / 10),
      body.rule,
      `${body.position.file}:${body.position.line}`,
    ]),
  );
}
