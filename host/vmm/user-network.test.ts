import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseControlAnswer } from "./user-network.ts";

describe("answers of slirp4netns", () => {
  it("takes a success", () => {
    expect(() => parseControlAnswer('{"return": {"id": 1}}')).not.toThrow();
  });

  it.each([
    ['{"error": {"desc": "bad request: add_hostfwd: slirp_add_hostfwd failed"}}', "bad request: add_hostfwd: slirp_add_hostfwd failed"],
    ['{"error": 1}', "slirp4netns gave an answer that is neither success nor error"],
    ['{"return": {}, "error": {"desc": "both"}}', "both"],
    ["{}", "slirp4netns gave an answer that is neither success nor error"],
    ["[]", "slirp4netns gave an answer that is neither success nor error"],
  ])("refuses %s", (text, message) => {
    expect(() => parseControlAnswer(text)).toThrow(expect.objectContaining({ code: "ERR_VMM_FORWARD", message }));
  });

  it("lets only this project's errors escape from any text", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
        try {
          parseControlAnswer(text);
        } catch (error) {
          expect((error as { code: string }).code).toMatch(/^ERR_(VMM_FORWARD|CORE_JSON|CORE_LIMIT)$/);
        }
      }),
    );
  });
});
