/** One column of a table. */
export interface Column {
  readonly name: string;
  /** Left if not said: numbers stand on the right. */
  readonly align?: "left" | "right";
}

/** A table as `opa eval` draws it: `+---+` borders, one line per row. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const widths = columns.map(({ name }, at) => rows.reduce((width, row) => Math.max(width, length(row[at] ?? "")), length(name)));
  const border = `+${widths.map((width) => "-".repeat(width + 2)).join("+")}+`;
  const line = (cells: readonly string[], head: boolean): string =>
    `|${widths.map((width, at) => ` ${pad(cells[at] ?? "", width, !head && columns[at]?.align === "right")} `).join("|")}|`;
  const body = rows.map((row) => line(row, false));
  const names = columns.map(({ name }) => name);
  return `${[border, line(names, true), border, ...body, ...(body.length === 0 ? [] : [border])].join("\n")}\n`;
}

function pad(text: string, width: number, right: boolean): string {
  const space = " ".repeat(width - length(text));
  return right ? space + text : text + space;
}

/** Code points: near enough to columns of a terminal. */
function length(text: string): number {
  return Array.from(text).length;
}
