export { buildImages } from "./build-images.ts";
export type { BuildImagesOptions, BuiltImage, BuiltImages } from "./build-images.ts";
export { parseElf } from "./elf.ts";
export type { ElfNeeds } from "./elf.ts";
export { IMAGES_ERRORS, ImagesError } from "./errors.ts";
export type { ImagesErrorCode } from "./errors.ts";
export type { NginxApplication, SkrApplication } from "./layers.ts";
export { encryptPage } from "./page.ts";
