import { describe, expect, it } from "vitest";
import { compile } from "./index.ts";
import type { Place } from "./index.ts";

const TEXT = `package t

default allow := false

allow if {
	input.user == "alice"
	some role in input.roles
	role == "admin"
}

never if {
	input.absent
	1 == 1
}

twice(x) := x * 2
`;

function observe(input: Record<string, unknown>): { readonly seen: readonly string[]; readonly places: ReadonlySet<Place> } {
  const policy = compile([{ name: "t.rego", text: TEXT }]);
  const seen: string[] = [];
  const places = new Set<Place>();
  const record =
    (event: string) =>
    (place: Place, held?: boolean): void => {
      places.add(place);
      seen.push(`${event} ${place.position.line}${held === undefined ? "" : ` ${held}`}`);
    };
  policy.evaluate("data.t.allow", {
    input: input as never,
    observer: { enter: record("enter"), leave: record("leave"), statement: record("statement") },
  });
  const all = new Set(policy.places());
  for (const place of places) expect(all).toContain(place);
  return { seen, places };
}

describe("observer", () => {
  it("sees the bodies and statements that run, in order", () => {
    const { seen } = observe({ user: "alice", roles: ["dev", "admin"] });
    expect(seen[0]).toBe("enter 5");
    expect(seen.at(-1)).toBe("leave 5 true");
    expect(seen.filter((line) => line === "statement 8").length).toBe(2);
  });

  it("sees nothing behind a statement that fails, and then the default", () => {
    const { seen } = observe({ user: "bob", roles: [] });
    expect(seen).toEqual(["enter 5", "statement 6", "leave 5 false", "enter 3", "leave 3 true"]);
  });

  it("names every place of a policy once, also those never run", () => {
    const places = compile([{ name: "t.rego", text: TEXT }]).places();
    const lines = places.map((place) => `${place.kind} ${place.rule} ${place.position.line}`);
    expect(new Set(lines).size).toBe(lines.length);
    expect(lines.toSorted()).toEqual([
      "body data.t.allow 3",
      "body data.t.allow 5",
      "body data.t.never 11",
      "body data.t.twice 16",
      "statement data.t.allow 6",
      "statement data.t.allow 7",
      "statement data.t.allow 8",
      "statement data.t.never 12",
      "statement data.t.never 13",
    ]);
    expect(places.find((place) => place.position.line === 7)?.text).toBe("some role in input.roles");
  });
});
