import type { RegoArray, Value } from "../values/index.ts";
import type { Builtin } from "./builtin.ts";
import { builtinError, define, string } from "./builtin.ts";

interface Version {
  readonly numbers: readonly bigint[];
  readonly pre: readonly string[];
}

function isNumeric(text: string): boolean {
  if (text === "") return false;
  for (const char of text) if (char < "0" || char > "9") return false;
  return true;
}

function isIdentifier(text: string): boolean {
  if (text === "") return false;
  for (const char of text) {
    const alphanumeric = (char >= "0" && char <= "9") || (char >= "a" && char <= "z") || (char >= "A" && char <= "Z") || char === "-";
    if (!alphanumeric) return false;
  }
  return true;
}

/** Semantic Versioning 2.0.0 as OPA reads it: leading zeros are not refused. */
function parseVersion(text: string): Version | undefined {
  const plus = text.indexOf("+");
  const withoutBuild = plus === -1 ? text : text.slice(0, plus);
  if (
    plus !== -1 &&
    !text
      .slice(plus + 1)
      .split(".")
      .every(isIdentifier)
  )
    return undefined;
  const dash = withoutBuild.indexOf("-");
  const core = (dash === -1 ? withoutBuild : withoutBuild.slice(0, dash)).split(".");
  const pre = dash === -1 ? [] : withoutBuild.slice(dash + 1).split(".");
  if (core.length !== 3 || !core.every((part) => isNumeric(part) && part.length <= 20) || !pre.every(isIdentifier)) return undefined;
  return { numbers: core.map(BigInt), pre };
}

function order(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Digits of any length, without making integers of them: that takes time which grows faster than their count. */
function orderDigits(a: string, b: string): number {
  const [left, right] = [a.replace(/^0+/, ""), b.replace(/^0+/, "")];
  if (left.length !== right.length) return left.length < right.length ? -1 : 1;
  return left < right ? -1 : left > right ? 1 : 0;
}

function compareVersions(a: Version, b: Version): number {
  for (let at = 0; at < 3; at++) {
    const result = order(a.numbers[at]!, b.numbers[at]!);
    if (result !== 0) return result;
  }
  if (a.pre.length === 0 || b.pre.length === 0) return (a.pre.length === 0 ? 1 : 0) - (b.pre.length === 0 ? 1 : 0);
  for (let at = 0; at < Math.max(a.pre.length, b.pre.length); at++) {
    const left = a.pre[at];
    const right = b.pre[at];
    if (left === undefined || right === undefined) return left === undefined ? -1 : 1;
    if (left === right) continue;
    if (isNumeric(left) && isNumeric(right)) return orderDigits(left, right);
    if (isNumeric(left) !== isNumeric(right)) return isNumeric(left) ? -1 : 1;
    return left < right ? -1 : 1;
  }
  return 0;
}

function version(args: RegoArray, at: number): Version {
  const text = string(args, at);
  const parsed = parseVersion(text);
  if (parsed === undefined) throw builtinError(`operand ${at + 1}: string ${JSON.stringify(text)} is not a valid SemVer`);
  return parsed;
}

/** Semantic versions. */
export const semverBuiltins: readonly Builtin[] = [
  define("semver.compare", 2, (args) => compareVersions(version(args, 0), version(args, 1))),
  define("semver.is_valid", 1, ([text]): Value => typeof text === "string" && parseVersion(text) !== undefined),
];
