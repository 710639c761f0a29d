import { Option, type Command } from "commander";
import { repeatable } from "../options.ts";
import type { DeclareVerb } from "../program.ts";

/** Declares `eval`, `check`, `test`, `fmt` and `bench`. Names and flags are those of `opa` where it has them. */
export function addRegoVerbs(verb: DeclareVerb): void {
  withSession(
    verb(
      "eval",
      "Evaluate a query.",
      [
        "sealpod rego eval -d policy.rego -i input.json data.authz.allow",
        "sealpod rego eval -d policies/ -I -f pretty 'data.authz.deny[reason]' < input.json",
        "sealpod rego eval -d policy.rego -i input.json -f pretty --explain fails data.authz.allow",
        "sealpod rego eval -d policy.rego --fail data.authz.allow      # exit code 3 if it is undefined",
      ],
      () => import("../verbs/rego-eval.ts"),
    ),
  )
    .addOption(
      new Option("-f, --format <format>", "json as opa has it; pretty for people; raw for scripts; values or bindings alone")
        .choices(["json", "pretty", "raw", "values", "bindings"])
        .default("json"),
    )
    .option("--fail", "exit with 3 if the query is undefined")
    .option("--fail-defined", "exit with 3 if the query is defined")
    .addOption(
      new Option("--explain <which>", "show the rule bodies that were tried, or those that failed, each with the statement where it stopped").choices([
        "off",
        "full",
        "fails",
      ]),
    )
    .option("--profile", "show the time per rule")
    .option("--profile-limit <number>", "rules in the profile", "10")
    .option("--coverage", "report the lines that ran")
    .option("--metrics", "report times and what was used of the limits")
    .addHelpText(
      "after",
      `
What policies print goes to stderr. Without --timeout the limits are those of the agent.
Exit codes: 0 answered; 3 with --fail: undefined, with --fail-defined: defined (opa: 1); 1, 2, 3 errors (opa: 2).`,
    );

  withDialect(
    verb(
      "check",
      "Check modules: syntax, unsafe variables, unknown functions, types, recursion, regular expressions.",
      ["sealpod rego check policy.rego", "sealpod rego check policies/", "sealpod rego check -f json policy.rego"],
      () => import("../verbs/rego-check.ts"),
    ),
  )
    .argument("<paths...>", "modules, or directories that hold them")
    .addOption(format());

  withDialect(
    verb(
      "test",
      "Run the rules whose names start with test_.",
      ["sealpod rego test policies/", "sealpod rego test -v -r 'authz.*denied' policies/", "sealpod rego test --coverage --threshold 90 policies/"],
      () => import("../verbs/rego-test.ts"),
    ),
  )
    .argument("[paths...]", "modules, data, or directories that hold them (default: the current directory)")
    .addOption(format())
    .option("-v, --verbose", "print every test and what it prints")
    .option("-r, --run <regex>", "run the tests whose path this regular expression (RE2) matches")
    .option("-c, --coverage", "print the lines that ran as JSON, in the shape of opa's report")
    .option("--threshold <percent>", "fail if less than this part of the lines ran")
    .option("-t, --timeout <duration>", "limit of one test, e.g. 30s (default: the limits of the agent)")
    .addHelpText(
      "after",
      `
A test passes if its rule is true. Rules whose names start with todo_test_ are skipped, which is no failure (opa: exit code 2 without -z).
Exit codes: 0 all passed; 1 a test failed (opa: 2), the coverage is below the threshold, or there is no test.`,
    );

  withVersion(
    verb(
      "fmt",
      "Format modules: to stdout, or in place with -w.",
      [
        "sealpod rego fmt policy.rego",
        "sealpod rego fmt < policy.rego",
        "sealpod rego fmt -w policies/",
        "sealpod rego fmt -l --fail policies/      # in CI",
        "sealpod rego fmt -d policy.rego",
      ],
      () => import("../verbs/rego-fmt.ts"),
    ),
  )
    .argument("[paths...]", "modules, or directories that hold them (default: stdin)")
    .option("-w, --write", "rewrite the files that are not formatted")
    .option("-d, --diff", "print the changes instead")
    .option("-l, --list", "print the names of the files that are not formatted instead")
    .option("--fail", "exit with 1 if a file was not formatted")
    .option("--rego-v1", "rewrite Rego v0 in the words of v1")
    .option("--check-result", "read the result again before it is given out (default)")
    .option("--no-check-result", "do not");

  withSession(
    verb(
      "bench",
      "Measure a query: time per evaluation, and time per rule.",
      [
        "sealpod rego bench -d policy.rego -i input.json data.authz.allow",
        "sealpod rego bench -d policy.rego -i input.json --count 5 -f json data.authz.allow",
      ],
      () => import("../verbs/rego-bench.ts"),
    ),
  )
    .addOption(format())
    .option("--count <number>", "measurements of a second each", "1")
    .option("--prints", "keep what the policy prints, and measure that too")
    .option("--profile-limit <number>", "rules in the profile", "10")
    .option("--fail", "exit with 3 if the query is undefined");
}

function withSession(command: Command): Command {
  return withDialect(command)
    .argument("<query>", "query, e.g. data.authz.allow")
    .addOption(repeatable("-d, --data <path>", "module (.rego), data (.json, .yaml) or directory of both; repeatable"))
    .option("-i, --input <file>", "input document, JSON or YAML")
    .option("-I, --stdin-input", "read the input document from stdin, JSON")
    .option("--package <path>", "package in which the query stands")
    .addOption(repeatable("--import <path>", "import of the query, e.g. 'data.lib as lib'; repeatable"))
    .option("-S, --strict-builtin-errors", "a failing builtin function is an error instead of undefined")
    .option("-t, --timeout <duration>", "limit of one evaluation, e.g. 30s, 1m30s");
}

function withVersion(command: Command): Command {
  return command.option("--v0-compatible", "modules are Rego v0 unless they import rego.v1").option("--v1-compatible", "modules are Rego v1 (default)");
}

/** For policies that opa refuses or reads otherwise, and the agents of their time did not. */
function withDialect(command: Command): Command {
  return withVersion(command)
    .option("--allow-recursive-functions", "functions may call themselves, as in the rules of some AKS releases")
    .addOption(
      new Option("--negation <engine>", "what `not f(input.x)` means without input.x: undefined (opa) or true (regorus)")
        .choices(["opa", "regorus"])
        .default("opa"),
    );
}

function format(): Option {
  return new Option("-f, --format <format>", "for people, or as data").choices(["pretty", "json"]).default("pretty");
}
