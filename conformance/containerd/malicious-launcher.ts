import { readFileSync, writeFileSync } from "node:fs";
import { applyPatch, type Operation } from "rfc6902";

// What stands before the shim's launcher on the node of a malicious host: it edits the bundle in the working directory, which containerd has just written, as its
// first argument says (a file with {@link BundleEdit}s). It prints nothing: containerd would take it for the shim's address.

/** A change to `config.json` of the bundles that it is for. */
export interface BundleEdit {
  /** Value of the annotation that names a container, or `sandbox` for the pods' own. */
  readonly container: string;
  /** RFC 6902. */
  readonly patch: readonly Operation[];
}

const edits = JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")) as readonly BundleEdit[];
const spec = JSON.parse(readFileSync("config.json", "utf8")) as { readonly annotations?: Readonly<Record<string, string>> };
const { annotations = {} } = spec;
const name = annotations["io.kubernetes.cri.container-name"] ?? annotations["io.kubernetes.cri.container-type"];
for (const { container, patch } of edits) {
  if (container !== name) continue;
  for (const failure of applyPatch(spec, [...patch])) if (failure !== null) throw failure;
  writeFileSync("config.json", JSON.stringify(spec));
}
