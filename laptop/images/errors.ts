import { SealpodError } from "@sealpod/core";
import type { ErrorTable, SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link ImagesError}. */
export type ImagesErrorCode = "ERR_IMAGES_PACKAGE" | "ERR_IMAGES_ELF" | "ERR_IMAGES_LIBRARY" | "ERR_IMAGES_ROOTFS" | "ERR_IMAGES_PLATFORM" | "ERR_IMAGES_INPUT";

/** Rows of `laptop/images`. */
export const IMAGES_ERRORS: ErrorTable<ImagesErrorCode> = {
  ERR_IMAGES_PACKAGE: { action: "caller", exit: 1, http: 500, summary: "A Debian package that an image is made from is not installed, or lacks a file." },
  ERR_IMAGES_ELF: { action: "caller", exit: 1, http: 500, summary: "A program or library is not a well-formed 64-bit ELF file." },
  ERR_IMAGES_LIBRARY: { action: "caller", exit: 1, http: 500, summary: "A shared library that a program needs is not installed." },
  ERR_IMAGES_ROOTFS: { action: "caller", exit: 1, http: 500, summary: "Two things of different content were put at one path of an image." },
  ERR_IMAGES_INPUT: { action: "caller", exit: 1, http: 400, summary: "A key or page for the example's images is not usable." },
  ERR_IMAGES_PLATFORM: { action: "caller", exit: 1, http: 501, summary: "Images are built from this machine's files, and this machine is not linux/amd64." },
};

/** Errors of `laptop/images`. */
export class ImagesError extends SealpodError<ImagesErrorCode> {
  constructor(code: ImagesErrorCode, message: string, options?: SealpodErrorOptions) {
    super(IMAGES_ERRORS, code, message, options);
  }
}
