import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, truncateSync } from "node:fs";
import { mkdir, open, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeUtf8 } from "@sealpod/core";
import { MOUNT_NAMESPACE, onOwnRoot } from "@sealpod/vmm";
import { directoryTree, run } from "@sealpod/io";
import { blobPath, openLayout } from "@sealpod/oci";
import type { Image, ImageSource } from "@sealpod/oci";
import { buildLayer, discard, readTar, safePath } from "@sealpod/verity";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildImages } from "./build-images.ts";
import type { BuiltImages } from "./build-images.ts";

const missing = ["/usr/sbin/nginx", "/bin/busybox"].filter((path) => !existsSync(path));
const canChroot = spawnSync("unshare", [...MOUNT_NAMESPACE, "true"]).status === 0;

const INPUTS = {
  pause: true,
  nginx: { webapp: encodeUtf8("export {};\n"), page: encodeUtf8("encrypted") },
  skr: { bundle: encodeUtf8('console.log("skr", process.argv.slice(2).join());\n'), certificates: encodeUtf8("-----BEGIN CERTIFICATE-----\n") },
};

/** Unpacks an image's layers over one another; enough for images made here, which have no whiteouts and no hard links. */
async function unpack(source: ImageSource, image: Image, root: string): Promise<void> {
  for (const layer of image.layers) {
    for await (const entry of readTar(source.layerTar(layer))) {
      const path = join(root, safePath(entry.path));
      if (entry.kind === "directory") await mkdir(path, { recursive: true, mode: entry.mode });
      else if (entry.kind === "symlink") await symlink(entry.target, path);
      else {
        await using file = await open(path, "wx", entry.mode);
        for await (const chunk of entry.data) await file.writeFile(chunk);
      }
    }
  }
}

describe.skipIf(missing.length > 0)(
  `buildImages${missing.length > 0 ? ` (skipped: not installed: ${missing.join(", ")}; apt-get install nginx-light busybox-static)` : ""}`,
  () => {
    let directory: string;
    let output: string;
    let built: BuiltImages;
    let source: ImageSource;

    beforeAll(async () => {
      directory = mkdtempSync(join(tmpdir(), "sealpod-images-"));
      output = join(directory, "images");
      built = await buildImages({ output, ...INPUTS });
      source = await openLayout(directoryTree(output));
    });
    afterAll(() => {
      rmSync(directory, { recursive: true });
    });

    it("names the images and shares the Node layer", () => {
      expect(built.images.map((image) => image.reference)).toEqual([
        "sealpod.internal/pause:1",
        expect.stringMatching(/^sealpod\.internal\/nginx:[0-9.]+$/) as string,
        "sealpod.internal/skr:1",
      ]);
      const [pause, nginx, skr] = built.images;
      expect(pause?.layers).toHaveLength(1);
      expect(nginx?.layers[0]).toEqual(skr?.layers[0]);
      expect(built).toMatchObject({ builtLayers: 6, reusedLayers: 0 });
    });

    it("builds nothing twice, unless a blob is damaged", async () => {
      const again = await buildImages({ output, ...INPUTS });
      expect(again).toMatchObject({ indexDigest: built.indexDigest, images: built.images, builtLayers: 0, reusedLayers: 6 });
      truncateSync(join(output, blobPath(built.images[0]?.layers[0]?.digest ?? "")), 1000);
      const mended = await buildImages({ output, ...INPUTS });
      expect(mended).toMatchObject({ indexDigest: built.indexDigest, builtLayers: 1, reusedLayers: 5 });
    });

    it("gives the same index from nothing, and another one for another bundle", async () => {
      const fresh = await buildImages({ output: join(directory, "fresh"), ...INPUTS });
      expect(fresh.indexDigest).toBe(built.indexDigest);
      const other = await buildImages({ output: join(directory, "fresh"), ...INPUTS, skr: { ...INPUTS.skr, bundle: encodeUtf8("changed") } });
      expect(other).toMatchObject({ builtLayers: 1, reusedLayers: 5 });
      expect(other.indexDigest).not.toBe(built.indexDigest);
    });

    it("makes layers that pass every check on the way to a verity root", async () => {
      for (const { reference, layers } of built.images) {
        const image = await source.resolve(reference);
        expect(image.layers).toEqual(layers);
        for (const layer of image.layers) expect((await buildLayer(source.layerTar(layer), discard)).dataBlocks).toBeGreaterThan(1);
      }
    });

    it("has the commands that the example's manifest names", async () => {
      const configs = await Promise.all(built.images.map(async (image) => (await source.resolve(image.reference)).config));
      expect(configs).toMatchObject([
        { user: "65535:65535", entrypoint: ["/bin/busybox", "sleep", "infinity"] },
        { user: "", cmd: ["/usr/bin/node", "/app/webapp.mjs"] },
        { user: "", cmd: ["/skr.sh"] },
      ]);
    });

    describe.skipIf(!canChroot)(`in a chroot${canChroot ? "" : " (skipped: no right to make mount namespaces)"}`, () => {
      const inside = async (image: string, command: readonly string[]): Promise<string> => {
        const root = join(directory, `root-${image}`);
        if (!existsSync(root)) {
          await mkdir(root);
          await unpack(source, await source.resolve(built.images.find((item) => item.name === image)?.reference ?? ""), root);
        }
        // A private mount namespace: /dev and /proc vanish with the command. Standard output is a real pipe, as containers have it.
        const script =
          'ip link set lo up && mount --bind /dev "$0/dev" && mount -t proc proc "$0/proc" && root=$0 && { chroot "$root" "$@" 2>&1; echo "exit $?"; } | cat';
        const { stdout } = await run("unshare", [...MOUNT_NAMESPACE, "--pid", "--net", "--fork", ...onOwnRoot(["/bin/sh", "-c", script, root, ...command])], {
          env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
        });
        return new TextDecoder().decode(stdout);
      };

      it("nginx accepts its configuration and Node runs", async () => {
        expect(await inside("nginx", ["/usr/sbin/nginx", "-t"])).toMatch(/test is successful\nexit 0\n$/);
        expect(await inside("nginx", ["/usr/bin/node", "--version"])).toBe(`${process.version}\nexit 0\n`);
        expect(
          await inside("nginx", ["/usr/bin/node", "-p", "require('node:os').userInfo().username + require('node:crypto').hash('sha256', '').slice(0, 4)"]),
        ).toBe("roote3b0\nexit 0\n");
      });

      it("nginx serves its page as a child of Node, as the web application runs it", async () => {
        const program = `
        const { mkdirSync, writeFileSync } = require("node:fs");
        mkdirSync("/tmp/html", { recursive: true });
        writeFileSync("/tmp/html/index.html", "decrypted");
        const child = require("node:child_process").spawn("/usr/sbin/nginx", [], { stdio: ["ignore", "inherit", "pipe"] });
        let asked = false;
        child.stderr.on("data", async (text) => {
          if (asked || !String(text).includes("start worker process ")) return;
          asked = true;
          const response = await fetch("http://127.0.0.1/");
          console.log(response.status, (await response.text())=== "decrypted");
          child.kill("SIGQUIT");
        });
        child.on("exit", (code, signal) => console.log("nginx ended", code, signal));`;
        const output = await inside("nginx", ["/usr/bin/node", "-e", program]);
        expect(output).toMatch(/^200 true$/m);
        expect(output).toMatch(/^nginx ended 0 null$/m);
        expect(output).toMatch(/"GET \/ HTTP\/1\.1" 200/);
      });

      it("the sidecar's script starts its bundle", async () => {
        expect(await inside("skr", ["/skr.sh", "one", "two"])).toBe("skr one,two\nexit 0\n");
      });

      it("the pause image runs its program alone", async () => {
        expect(await inside("pause", ["/bin/busybox", "sleep", "0"])).toBe("exit 0\n");
      });
    });
  },
);
