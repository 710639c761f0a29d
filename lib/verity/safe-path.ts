import { VerityError } from "./errors.ts";
import { MAX_NAME_LENGTH } from "./limits.ts";

/**
 * The path of a tar member relative to the directory it is unpacked to: no leading, trailing or double `/`, no `.`;
 * "" is the directory itself. `..` is refused: `a/../b` is `b` to a text and something else to a file system where `a` is a
 * link (users.md 1.4: path traversal in policy tools). An absolute path is taken as relative, as container tools do. Links
 * that stand on the way are the extractor's to check: this function sees text alone.
 * @throws {VerityError} ERR_VERITY_TAR_PATH
 */
export function safePath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    const problem =
      part === ".." ? "it has a '..' component" : part.includes("\0") ? "it has a NUL" : nameTooLong(part) ? "a component is too long" : undefined;
    if (problem !== undefined) {
      throw new VerityError("ERR_VERITY_TAR_PATH", `tar member ${JSON.stringify(path.slice(0, 200))} cannot be unpacked: ${problem}`, {
        hint: "The image is damaged or made to write outside its own root. Do not run it.",
      });
    }
    parts.push(part);
  }
  return parts.join("/");
}

function nameTooLong(name: string): boolean {
  return name.length > MAX_NAME_LENGTH || Buffer.byteLength(name) > MAX_NAME_LENGTH;
}
