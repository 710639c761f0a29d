import { readFile } from "node:fs/promises";
import type { Profile } from "./profile.ts";
import { joinRules, RULE_FILES } from "./rules/join.ts";

/** Text of our own rules, as it stands in a policy that was not made small. */
export async function readOwnRules(): Promise<string> {
  return joinRules(await Promise.all(RULE_FILES.map(async (name) => ({ name, text: await readOwn(`rules/${name}`) }))));
}

/** Text of our own settings for a generation: JSON. */
export async function readOwnSettings(profile: Profile): Promise<string> {
  return readOwn(`data/${profile.ownSettings}`);
}

async function readOwn(path: string): Promise<string> {
  return readFile(new URL(path, import.meta.url), "utf8");
}
