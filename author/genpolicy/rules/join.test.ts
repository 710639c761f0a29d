import { readdirSync, readFileSync } from "node:fs";
import { compile, formatModule, TYPE_CHECKER } from "@sealpod/rego";
import { describe, expect, it } from "vitest";
import { GenpolicyError } from "../errors.ts";
import { joinRules, RULE_FILES, type RuleFile } from "./join.ts";
import { RULES, SHAPES, testPod } from "./test-support.ts";

const HEAD = "package agent_policy\n\nimport rego.v1\n";

function files(): readonly RuleFile[] {
  return RULE_FILES.map((name) => ({ name, text: readFileSync(new URL(name, import.meta.url), "utf8") }));
}

/** Rules of a file by name, each with the text of all its definitions. */
function rulesOf({ text }: RuleFile): ReadonlyMap<string, string> {
  const rules = new Map<string, string>();
  let name = "";
  for (const line of text.slice(text.indexOf(HEAD) + HEAD.length).split("\n")) {
    const found = /^(?:default )?([A-Za-z_]+)/.exec(line)?.[1];
    if (found !== undefined && found !== "else") name = found;
    if (!line.startsWith("#")) rules.set(name, `${rules.get(name) ?? ""}${line}\n`);
  }
  rules.delete("");
  return rules;
}

describe("joinRules", () => {
  it("makes one module of the files: one head, all bodies, all comments", () => {
    const text = joinRules([
      { name: "a.rego", text: `# A\n${HEAD}\na := 1\n` },
      { name: "b.rego", text: `${HEAD}\n# b\nb := a\n` },
    ]);
    expect(text).toBe(`${HEAD}\n# A\n\na := 1\n\n\n# b\nb := a\n`);
    expect(compile([{ name: "r", text }]).evaluate("data.agent_policy.b").results[0]?.expressions).toEqual([1]);
  });

  it("refuses a file that would not be joined to what it says", () => {
    for (const text of ["", "a := 1", `a := 1\n${HEAD}`, `${HEAD}\na := 1\n${HEAD}`, "package other\n\nimport rego.v1\n", "package agent_policy\n\na := 1\n"]) {
      const join = (): string => joinRules([{ name: "x.rego", text }]);
      expect(join).toThrow(GenpolicyError);
      expect(join).toThrow(/^x\.rego: expected comments/);
    }
  });
});

describe("our rules", () => {
  it("are the files that stand here, each once", () => {
    const present = readdirSync(new URL(".", import.meta.url)).filter((name) => name.endsWith(".rego"));
    expect([...RULE_FILES].sort()).toEqual(present.sort());
  });

  for (const { name, text } of files()) it(`${name} is laid out as sealpod rego fmt leaves it`, () => expect(formatModule(text, { name })).toBe(text));

  it("are what an agent takes, in both of its dialects, as one text and as files, with types that fit", () => {
    for (const shape of SHAPES) {
      const data = `policy_data := ${JSON.stringify(testPod(shape).data)}`;
      for (const version of ["v0", "v1"] as const)
        expect(() => compile([{ name: "r", text: `${RULES}\n${data}` }], { version, typeChecker: TYPE_CHECKER })).not.toThrow();
      expect(() => compile([...files(), { name: "data", text: `package agent_policy\n\n${data}` }])).not.toThrow();
    }
  });

  it("decide every request whose name docs/policy.md has, and no other", () => {
    const documentation = readFileSync(new URL("../../../docs/policy.md", import.meta.url), "utf8");
    const entries = new Set([...RULES.matchAll(/^(?:default )?([A-Z]\w+)/gm)].map((match) => match[1] ?? ""));
    const documented = new Set([...documentation.matchAll(/`([A-Z][A-Za-z]+(?:Request|Config|FailingPolicy))`/g)].map((match) => match[1] ?? ""));
    expect([...documented].sort()).toEqual([...entries].sort());
  });

  it("have each file and each rule that can refuse in docs/policy.md", () => {
    const documentation = readFileSync(new URL("../../../docs/policy.md", import.meta.url), "utf8");
    const missing = files().flatMap((file) => {
      const refusing = [...rulesOf(file)].filter(
        ([name, body]) => /^[a-z]/.test(name) && /\b(?:refuse|unlike|same|fit|one_of|alike|barred|unmatched|print)\(/.test(body),
      );
      return [file.name, ...refusing.map(([name]) => name)].filter((name) => !documentation.includes(`\`${name}\``));
    });
    expect(missing).toEqual([]);
  });

  it("never ask for more than the policy, the request and the state", () => {
    const plain = RULES.replaceAll(/^\s*#.*$/gm, "").replaceAll(/"[^"\n]*"|`[^`]*`/g, '""');
    expect([...plain.matchAll(/\bdata\.(\w+)/g)].every((match) => match[1] === "pstate")).toBe(true);
    expect(plain).not.toMatch(/\b(?:http|opa|time|rand|with)\b/);
  });
});
