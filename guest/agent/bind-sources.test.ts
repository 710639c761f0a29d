import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { create, type Mount, MountSchema } from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import { requirePlainSources } from "./bind-sources.ts";
import { errorOf, inTemporaryDirectory } from "./test-support.ts";

const bind = (source: string, type = "bind", options: string[] = ["rbind", "ro"]): Mount => create(MountSchema, { source, type, destination: "/x", options });

async function withGuest(use: (root: string) => void | Promise<void>): Promise<void> {
  await inTemporaryDirectory(async (path) => {
    const root = `${path}/guest`;
    for (const directory of ["secret", "shared/volume/..2026", "shared/plain/inner"]) mkdirSync(`${root}/${directory}`, { recursive: true });
    writeFileSync(`${root}/shared/c1-hosts`, "");
    symlinkSync("..2026", `${root}/shared/volume/..data`);
    symlinkSync("../secret", `${root}/shared/link`);
    symlinkSync("../../secret", `${root}/shared/plain/link`);
    await use(root);
  });
}

describe("sources of bind mounts", () => {
  it("are files and directories below the root of the guest, links inside of them left alone; or lie elsewhere, or are missing", () =>
    withGuest((root) => {
      const names = ["c1-hosts", "volume", "volume/", "plain/inner", "missing", "missing/more", "c1-hosts/more"];
      const kinds = [...names.map((name) => bind(`${root}/shared/${name}`)), bind("/etc/mtab"), bind(`${root}x/y`), bind("proc", "proc", [])];
      for (const mount of kinds) requirePlainSources(root, [mount]);
    }));

  it.each([
    "shared/link",
    "shared/link/",
    "shared/plain/link",
    "shared/link/x",
    "shared/volume/..data",
    "shared/../shared/link",
    "./shared/link",
    "/shared/link",
    "shared//link",
  ])("are not what a link leads to: %s", (name) =>
    withGuest(async (root) => {
      for (const mount of [bind(`${root}/${name}`), bind(`${root}/${name}`, "none", ["bind"]), bind(`${root}/${name}`, "", ["rbind"])]) {
        const error = await errorOf(() => requirePlainSources(root, [bind(`${root}/shared/volume`), mount]));
        expect(error.code).toBe("ERR_AGENT_PATH");
      }
    }),
  );

  it("do not hide that they are below the root", () =>
    withGuest(async (root) => {
      const at = root.lastIndexOf("/");
      for (const source of [`/${root}/shared/link`, `${root.slice(0, at)}/.${root.slice(at)}/shared/link`, `${root}/../guest/shared/link`, "relative", "/"]) {
        expect((await errorOf(() => requirePlainSources(root, [bind(source)]))).code, source).toBe("ERR_AGENT_PATH");
      }
    }));
});
