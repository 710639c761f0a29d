import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { storeCases } from "./testdata/store-cases.ts";

storeCases("SQLite in memory", { shared: false, place: async () => ({ url: ":memory:", remove: async () => undefined }) });

storeCases("a SQLite file", {
  shared: true,
  place: async () => {
    const directory = mkdtempSync(join(tmpdir(), "sealpod-vault-"));
    return { url: join(directory, "vault.sqlite"), remove: async () => rmSync(directory, { recursive: true }) };
  },
});
