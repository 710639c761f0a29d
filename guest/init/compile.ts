import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "@sealpod/core";
import { InitError } from "./errors.ts";

/** The C file of the guest's first process and helper. */
export const INIT_SOURCE: string = join(import.meta.dirname, "init.c");

/** What {@link compileInit} needs. Paths are absolute. */
export interface CompileInitOptions {
  /** Directory into which Debian's package `tcc` was unpacked (`dpkg-deb -x`). Its version decides the bytes. */
  readonly tcc: string;
  /** File for the program. */
  readonly output: string;
  /** Starts a program of the machine without a shell; rejects, with what it said, unless it ends with 0. */
  readonly run: (program: string, args: readonly string[]) => Promise<unknown>;
  /** Another freestanding C file: those of tests and of the bench. */
  readonly source?: string;
}

/**
 * Compiles the guest's first process: a static program without any library, the same bytes for the same compiler and source wherever and
 * whenever it is made.
 * @returns the bytes of `output`
 * @throws {InitError} ERR_INIT_COMPILE, ERR_INIT_PROGRAM
 */
export async function compileInit({ tcc, output, run, source = INIT_SOURCE }: CompileInitOptions): Promise<Uint8Array> {
  try {
    // Neither headers nor libraries: what the machine that builds has installed must not matter.
    await run(join(tcc, "usr/bin/tcc"), ["-Wall", "-Werror", "-nostdinc", "-nostdlib", "-static", "-o", output, source]);
  } catch (cause) {
    throw new InitError("ERR_INIT_COMPILE", `tcc does not compile ${source}: ${messageOf(cause)}`, { cause });
  }
  const program = new Uint8Array(await readFile(output));
  assertStatic(program);
  return program;
}

/** `\x7fELF`, 64 bits, little endian, version 1 (System V ABI, chapter 4). */
const ELF_MAGIC = [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1] as const;
const [ET_EXEC, EM_X86_64, PT_LOAD, PF_X, PF_W] = [2, 62, 1, 1, 2] as const;

/** An executable of loadable segments alone, hence without a loader of its own or libraries, none of them both writable and executable. */
function assertStatic(program: Uint8Array): void {
  const refuse = (what: string): never => {
    throw new InitError("ERR_INIT_PROGRAM", `the compiled program ${what}, expected a static x86-64 executable`);
  };
  if (program.length < 64 || ELF_MAGIC.some((byte, at) => program[at] !== byte)) refuse("is not an ELF file of 64 bits");
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  if (view.getUint16(16, true) !== ET_EXEC || view.getUint16(18, true) !== EM_X86_64) refuse("is of another kind or machine");
  const [table, entrySize, entries] = [Number(view.getBigUint64(32, true)), view.getUint16(54, true), view.getUint16(56, true)];
  if (entries === 0 || entrySize !== 56 || table + entries * entrySize > program.length) refuse("has no program headers");
  for (let at = table; at < table + entries * entrySize; at += entrySize) {
    if (view.getUint32(at, true) !== PT_LOAD) refuse(`has a segment of type ${view.getUint32(at, true)}`);
    const flags = view.getUint32(at + 4, true);
    if ((flags & PF_W) !== 0 && (flags & PF_X) !== 0) refuse("has a segment that is writable and executable");
  }
}
