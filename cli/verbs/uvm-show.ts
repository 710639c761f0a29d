import { toHex } from "@sealpod/core";
import { uvmMeasurement, uvmRootFiles } from "@sealpod/image";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { printable } from "../rego/output.ts";
import { table } from "../rego/table.ts";
import { mebibytes, openImage } from "../uvm/image.ts";

interface Options {
  readonly files?: boolean;
}

/** `sealpod uvm show`. */
export const run: Verb<Options> = async (options, [directory], context) => {
  const uvm = await openImage(directory, context);
  const { manifest } = uvm;
  const measurement = manifest.target === "emulated" ? toHex(await uvmMeasurement(uvm)) : undefined;
  const files = options.files === true ? await uvmRootFiles(uvm) : undefined;
  if (options.json === true) {
    context.stdout.write(`${JSON.stringify({ directory: uvm.directory, ...manifest, measurement, files }, undefined, 2)}\n`);
    return EXIT.ok;
  }
  const { kernel, initrd, root, agent } = manifest;
  const rows: readonly (readonly string[])[] = [
    [kernel.file, mebibytes(kernel.size), kernel.sha256, "measured"],
    [initrd.file, mebibytes(initrd.size), initrd.sha256, "measured"],
    ["command line", `${manifest.commandLine.length} bytes`, "", "measured"],
    [root.file, mebibytes(root.size), root.sha256, "by its root hash, in the command line"],
  ];
  const text = [
    `${uvm.directory}: utility VM of Linux ${kernel.release} for ${manifest.target}\n`,
    table([{ name: "part" }, { name: "size", align: "right" }, { name: "SHA-256" }, { name: "in the launch measurement" }], rows),
    `\nroot hash     ${root.rootHash} (${root.dataBlocks} blocks)\n`,
    `agent         ${agent.version}, SHA-256 ${agent.sha256}\n`,
    `command line  ${manifest.commandLine}\n`,
    measurement === undefined
      ? "measurement   depends on firmware and processors: sealpod attest measure --uvm DIR --ovmf …\n"
      : `measurement   ${measurement} (emulated start)\n`,
    `packages      ${manifest.packages.map(({ name, version }) => `${name} ${version}`).join(", ")}\n`,
    files === undefined
      ? ""
      : `\n${table(
          [{ name: "mode" }, { name: "bytes", align: "right" }, { name: "SHA-256" }, { name: "path" }],
          files.map(({ path, mode, size, sha256, target }) => [
            mode.toString(8).padStart(4, "0"),
            String(size),
            (sha256 ?? "").slice(0, 16),
            target === undefined ? `/${path}` : `/${path} -> ${target}`,
          ]),
        )}`,
  ].join("");
  context.stdout.write(printable(text));
  return EXIT.ok;
};
