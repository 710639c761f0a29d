/** Lines around a change that a diff shows. */
const CONTEXT = 3;

/** Edits beyond which a diff is one block instead of the shortest: the search takes memory with their square. */
const MAX_EDITS = 1000;

interface Edit {
  readonly kind: " " | "-" | "+";
  readonly line: string;
}

/** The difference of two texts as `diff -u` prints it; empty if there is none. */
export function unifiedDiff(name: string, before: string, after: string): string {
  if (before === after) return "";
  const edits = editsBetween(splitLines(before), splitLines(after));
  const hunks: string[] = [];
  let [oldLine, newLine] = [1, 1];
  for (let from = 0; from < edits.length;) {
    if (edits[from]!.kind === " ") {
      oldLine++;
      newLine++;
      from++;
      continue;
    }
    // A hunk goes on while the next change is near enough for the contexts to touch.
    let last = from;
    for (let at = from; at < edits.length && at - last <= 2 * CONTEXT + 1; at++) if (edits[at]!.kind !== " ") last = at;
    const lead = Math.min(CONTEXT, from);
    const hunk = edits.slice(from - lead, last + 1 + CONTEXT);
    const [oldCount, newCount] = [count(hunk, "+"), count(hunk, "-")];
    hunks.push(`@@ -${range(oldLine - lead, oldCount)} +${range(newLine - lead, newCount)} @@\n${hunk.map(show).join("")}`);
    const rest = edits.slice(from, last + 1);
    oldLine += count(rest, "+");
    newLine += count(rest, "-");
    from = last + 1;
  }
  return `--- ${name}\n+++ ${name} (formatted)\n${hunks.join("")}`;
}

/** Lines of one side: those that the other side has alone are left out. */
function count(edits: readonly Edit[], without: "+" | "-"): number {
  return edits.filter(({ kind }) => kind !== without).length;
}

function range(start: number, length: number): string {
  return `${length === 0 ? start - 1 : start},${length}`;
}

function show({ kind, line }: Edit): string {
  return line.endsWith("\n") ? `${kind}${line}` : `${kind}${line}\n\\ No newline at end of file\n`;
}

/** Lines with their ends. */
function splitLines(text: string): readonly string[] {
  return text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
}

/** The edits between two lists; what they begin and end with alike is not searched. */
function editsBetween(a: readonly string[], b: readonly string[]): readonly Edit[] {
  const shorter = Math.min(a.length, b.length);
  let start = 0;
  while (start < shorter && a[start] === b[start]) start++;
  let end = 0;
  while (end < shorter - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const same = (lines: readonly string[]): readonly Edit[] => lines.map((line) => ({ kind: " ", line }));
  const changed = shortestEdits(a.slice(start, a.length - end), b.slice(start, b.length - end));
  return [...same(a.slice(0, start)), ...changed, ...same(a.slice(a.length - end))];
}

/** Myers, "An O(ND) difference algorithm and its variations" (1986), figure 2. */
function shortestEdits(a: readonly string[], b: readonly string[]): readonly Edit[] {
  const whole = (): Edit[] => [...a.map((line): Edit => ({ kind: "-", line })), ...b.map((line): Edit => ({ kind: "+", line }))];
  const rounds: Map<number, number>[] = [];
  let reach = new Map<number, number>([[1, 0]]);
  for (let distance = 0; distance <= a.length + b.length; distance++) {
    if (distance > MAX_EDITS) return whole();
    const next = new Map(reach);
    rounds.push(reach);
    for (let diagonal = -distance; diagonal <= distance; diagonal += 2) {
      let x = down(reach, diagonal, distance) ? reach.get(diagonal + 1)! : reach.get(diagonal - 1)! + 1;
      while (x < a.length && x - diagonal < b.length && a[x] === b[x - diagonal]) x++;
      next.set(diagonal, x);
      if (x >= a.length && x - diagonal >= b.length) return backtrack(a, b, rounds);
    }
    reach = next;
  }
  return whole();
}

/** True if the furthest way to a diagonal comes from the one above it: an insertion. */
function down(reach: ReadonlyMap<number, number>, diagonal: number, distance: number): boolean {
  return diagonal === -distance || (diagonal !== distance && reach.get(diagonal - 1)! < reach.get(diagonal + 1)!);
}

function backtrack(a: readonly string[], b: readonly string[], rounds: readonly ReadonlyMap<number, number>[]): readonly Edit[] {
  const edits: Edit[] = [];
  let [x, y] = [a.length, b.length];
  for (let distance = rounds.length - 1; distance >= 0; distance--) {
    const reach = rounds[distance]!;
    const diagonal = x - y;
    const before = down(reach, diagonal, distance) ? diagonal + 1 : diagonal - 1;
    const fromX = reach.get(before)!;
    const fromY = fromX - before;
    while (x > fromX && y > fromY && x > 0 && y > 0) edits.push({ kind: " ", line: a[(x--, y--, x)]! });
    if (distance === 0) break;
    if (x > fromX) edits.push({ kind: "-", line: a[--x]! });
    else edits.push({ kind: "+", line: b[--y]! });
  }
  return edits.reverse();
}
