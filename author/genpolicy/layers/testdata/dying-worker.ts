/** A worker that ends as soon as it gets bytes: by an exception that nobody caught, or without a word. */
import { parentPort } from "node:worker_threads";

parentPort?.on("message", (message: { readonly kind: string; readonly layer?: { readonly mediaType: string } }) => {
  if (message.kind !== "layer") return;
  if (message.layer?.mediaType === "throw") throw new Error("out of luck");
  if (message.layer?.mediaType === "exit") process.exit(7);
});
