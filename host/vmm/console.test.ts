import { describe, expect, it } from "vitest";
import { CONSOLE_TAIL_LENGTH, MachineConsole, printable } from "./console.ts";
import type { MachineEvent } from "./driver.ts";

function feed(text: string, size = Infinity): { readonly console: MachineConsole; readonly events: readonly MachineEvent[] } {
  const events: MachineEvent[] = [];
  const console = new MachineConsole((event) => events.push(event));
  const bytes = Buffer.from(text, "latin1");
  if (bytes.length === 0) console.push(bytes);
  for (let at = 0; at < bytes.length; at += size) console.push(bytes.subarray(at, Math.min(bytes.length, at + size)));
  return { console, events };
}

const CORRUPT = "[    9.123456] device-mapper: verity: 254:16: data block 3046 is corrupted";
const PANIC = "[    9.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";

describe("the console of a machine", () => {
  it.each([1, 2, 7, Infinity])("finds the kernel's words in pieces of %s bytes", (size) => {
    const text = `quiet\r\n${CORRUPT}\r\n[ 9.2] device-mapper: verity: sealpod-root: metadata block 7 is corrupted\nnothing\n${PANIC}\n`;
    expect(feed(text, size).events).toEqual([
      { kind: "corrupt-disk", text: CORRUPT },
      { kind: "corrupt-disk", text: "[ 9.2] device-mapper: verity: sealpod-root: metadata block 7 is corrupted" },
      { kind: "panic", text: PANIC },
    ]);
  });

  it("says nothing of a line that has not ended, and nothing of other lines", () => {
    expect(feed(CORRUPT).events).toEqual([]);
    expect(feed("device-mapper: verity: data block x is corrupted\nKernel is not syncing\n").events).toEqual([]);
  });

  it("bounds what it tells", () => {
    const { events } = feed(`${PANIC}${"x".repeat(100_000)}\n`.repeat(3) + `${PANIC}\n`.repeat(1000));
    expect(events).toHaveLength(100);
    expect(events.every((event) => event.text.length <= 400)).toBe(true);
  });

  it("keeps the end, and of that what a terminal may see", () => {
    const { console } = feed(`start${"x".repeat(2 * CONSOLE_TAIL_LENGTH)}\r\n\u001b[2J\u009b31mred\u0007\u0000\tend`, 1000);
    expect(console.tail).not.toContain("start");
    expect(console.tail.endsWith("x\n?[2J?31mred?\tend")).toBe(true);
    expect(console.tail.length).toBeLessThanOrEqual(CONSOLE_TAIL_LENGTH);
    expect(printable("\u202etxt\r\nå")).toBe("?txt\n?");
  });

  it("cleans events as well", () => {
    expect(feed(`\u001b[31m${PANIC}\u0007\n`).events).toEqual([{ kind: "panic", text: `?[31m${PANIC}?` }]);
  });

  it("remembers how the agent ended, if the guest says it in a line of its own", () => {
    expect(feed("x\nsealpod-init: agent ended with 137\r\n", 3).console.agentExitCode).toBe(137);
    expect(feed("say sealpod-init: agent ended with 0\nsealpod-init: agent ended with 1e9\n").console.agentExitCode).toBeUndefined();
  });
});
