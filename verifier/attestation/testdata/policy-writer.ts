/**
 * Changes policies and signing keys as fast as it can, and says on stdout what the store has acknowledged, until somebody kills it: `node policy-writer.ts <database> <first number>`.
 */
import { writeSync } from "node:fs";
import { openAttestationStore } from "../index.ts";
import { random } from "./evidence.ts";

const [file = "", first = "0"] = process.argv.slice(2);
const store = await openAttestationStore({ file, masterKey: new Uint8Array(32).fill(3), clock: { now: Date.now }, random });
const say = (line: string): void => void writeSync(1, `${line}\n`);
say(`key ${store.signer().kid}`);
for (let number = Number(first); ; number++) {
  store.setPolicy({ type: "SevSnpVm", token: `token ${number}`, text: `policy ${number}`, signer: undefined }, { subject: "writer", authority: "any" });
  say(`policy ${number}`);
  if (number % 10 === 0) {
    say(`key ${(await store.publishNextKey("writer")).kid}`);
    store.resetPolicy("Tpm", `reset ${number}`, { subject: "writer", authority: "any" });
    say(`reset ${number}`);
  }
}
