import { SealpodError } from "@sealpod/core";
import type { ErrorTable, SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link ImageError}. */
export type ImageErrorCode =
  | "ERR_IMAGE_PLATFORM"
  | "ERR_IMAGE_COMMAND"
  | "ERR_IMAGE_PACKAGE"
  | "ERR_IMAGE_FETCH"
  | "ERR_IMAGE_HASH"
  | "ERR_IMAGE_LOCK"
  | "ERR_IMAGE_LIMIT"
  | "ERR_IMAGE_ELF"
  | "ERR_IMAGE_LIBRARY"
  | "ERR_IMAGE_KERNEL"
  | "ERR_IMAGE_TREE"
  | "ERR_IMAGE_WRITE"
  | "ERR_IMAGE_UVM"
  | "ERR_IMAGE_CHANGED"
  | "ERR_IMAGE_MEASUREMENT"
  | "ERR_IMAGE_ABORTED";

/** Rows of `guest/image`. */
export const IMAGE_ERRORS: ErrorTable<ImageErrorCode> = {
  ERR_IMAGE_PLATFORM: {
    action: "caller",
    exit: 1,
    http: 501,
    summary: "A utility VM's image is made with the package tools of Debian, and this machine does not have them.",
  },
  ERR_IMAGE_COMMAND: { action: "caller", exit: 1, http: 500, summary: "A tool that the builder of images starts failed." },
  ERR_IMAGE_PACKAGE: { action: "caller", exit: 1, http: 404, summary: "A Debian package that the image is made from is not known here, or lacks a file." },
  ERR_IMAGE_FETCH: { action: "transient", exit: 1, http: 502, summary: "A Debian package cannot be fetched." },
  ERR_IMAGE_HASH: {
    action: "refused",
    exit: 1,
    http: 502,
    summary: "A fetched package does not have the hash that the signed package index or the lock states.",
  },
  ERR_IMAGE_LOCK: { action: "refused", exit: 1, http: 409, summary: "The inputs of a build are not those that its lock names, or the lock is malformed." },
  ERR_IMAGE_LIMIT: { action: "refused", exit: 1, http: 413, summary: "An input of an image is larger than a named limit." },
  ERR_IMAGE_ELF: { action: "caller", exit: 1, http: 400, summary: "A program, library or kernel module is not a well-formed 64-bit ELF file for x86-64." },
  ERR_IMAGE_LIBRARY: { action: "caller", exit: 1, http: 500, summary: "A shared library that a program of the image needs is in none of its packages." },
  ERR_IMAGE_KERNEL: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "A kernel image or one of its modules is malformed, or packed in a way that is not known here.",
  },
  ERR_IMAGE_TREE: { action: "caller", exit: 1, http: 500, summary: "Two things of different content were put at one path of an image, or a path is none." },
  ERR_IMAGE_WRITE: { action: "caller", exit: 1, http: 500, summary: "The image cannot be written, or its directory holds something else." },
  ERR_IMAGE_UVM: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "A directory is no utility VM image: its manifest is missing or malformed, or a file is not there.",
  },
  ERR_IMAGE_CHANGED: { action: "refused", exit: 3, http: 403, summary: "A file of a utility VM image is not the one that its manifest names." },
  ERR_IMAGE_MEASUREMENT: { action: "refused", exit: 3, http: 403, summary: "A signed statement is about another launch measurement than the image has." },
  ERR_IMAGE_ABORTED: { action: "caller", exit: 1, http: 503, summary: "The build of an image was stopped; nothing was left behind." },
};

/** Errors of `guest/image`. */
export class ImageError extends SealpodError<ImageErrorCode> {
  constructor(code: ImageErrorCode, message: string, options?: SealpodErrorOptions) {
    super(IMAGE_ERRORS, code, message, options);
  }
}
