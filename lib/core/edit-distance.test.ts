import { describe, expect, it } from "vitest";
import { editDistance } from "./edit-distance.ts";

describe("edit distance", () => {
  it.each([
    ["", "", 0],
    ["", "abc", 3],
    ["abc", "", 3],
    ["network", "network", 0],
    ["netwrok", "network", 2],
    ["memory", "memry", 1],
    ["memry", "memory", 1],
    ["kitten", "sitting", 3],
    ["abc", "xyz", 3],
    ["flaw", "lawn", 2],
  ])("from %j to %j is %d", (from, to, distance) => {
    expect(editDistance(from, to)).toBe(distance);
    expect(editDistance(to, from)).toBe(distance);
  });
});
