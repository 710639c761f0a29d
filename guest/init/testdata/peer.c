/*
 * What tests put against guest/init, with the parts of the program itself:
 *   peer terminal SOCKET PROGRAM ...  runs PROGRAM on a new terminal and sends its other side to SOCKET, as a container runtime does
 *   peer send SOCKET COUNT PATH       sends COUNT descriptors of a file
 *   peer table LINE                   prints the dm-verity table that a command line has: sectors, a space, the rest
 *   peer number TEXT                  prints a number
 *   peer mounts LINES                 mounts
 *   peer vsock PORT                   takes a connection from descriptor 3, which it makes itself, and prints what came
 */
#define start helper_start
#include "../init.c"
#undef start

enum { CONNECT = 42, SENDMSG = 46, CTRUNC = 8 };

__attribute__((noreturn)) void start(long *stack);

static void send(const char *path, long descriptor, u64 count) {
  static struct { u16 family; char path[108]; } address = { AF_UNIX, "" };
  static struct { u64 length; u32 level, type; int descriptors[4]; } control = { 0, 1, 1, { 0 } };
  static struct { const void *bytes; u64 size; } vector = { "/dev/pts/0", 11 };
  static struct { void *name; u64 name_length; void *vectors; u64 vector_count; void *control; u64 control_length; u32 flags; } message = { 0, 0, &vector, 1, 0, 0, 0 };
  long connection = must(CALL(SOCKET, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket", "");
  append(address.path, sizeof address.path, path);
  must(CALL(CONNECT, connection, &address, sizeof address), "connect ", path);
  for (u64 i = 0; i < count; i++) control.descriptors[i] = (int)descriptor;
  control.length = 16 + 4 * count;
  message.control = count ? &control : 0;
  message.control_length = count ? control.length : 0;
  must(CALL(SENDMSG, connection, &message, 0), "send ", path);
}

__attribute__((noreturn)) static void run_on_terminal(const char *path, char **program, char **environment) {
  static int locked;
  long terminal = must(CALL(OPEN, "/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), "open ", "/dev/ptmx");
  must(CALL(IOCTL, terminal, 0x40045431 /* TIOCSPTLCK */, &locked), "unlock", "");
  long side = must(CALL(IOCTL, terminal, 0x5441 /* TIOCGPTPEER */, O_RDWR | O_NOCTTY | O_CLOEXEC), "peer", "");
  send(path, terminal, 1);
  must(CALL(SETSID, 0), "setsid", "");
  must(CALL(IOCTL, side, 0x540e /* TIOCSCTTY */, 0), "controlling terminal", "");
  for (int i = 0; i <= 2; i++) must(CALL(DUP2, side, i), "dup", "");
  fail("start ", program[0], CALL(EXECVE, program[0], program, environment));
}

static void talk_on_vsock(const char *port) {
  static struct { u16 family, reserved; u32 port, cid; char rest[4]; } address = { AF_VSOCK, 0, 0, 1 /* VMADDR_CID_LOCAL */, "" };
  static char text[64];
  address.port = (u32)number(port, ~0U);
  if (must(CALL(FORK, 0), "fork", "") == 0) {
    long client = must(CALL(SOCKET, AF_VSOCK, SOCK_STREAM, 0), "socket", "");
    must(CALL(CONNECT, client, &address, sizeof address), "connect to port ", port);
    must(CALL(WRITE, client, "over vsock\n", 11), "write", "");
    finish(0);
  }
  long connection = must(CALL(ACCEPT4, 3, 0, 0, 0), "accept", "");
  long got = must(CALL(READ, connection, text, sizeof text), "read", "");
  must(CALL(WRITE, 1, text, got), "write", "");
}

void start(long *stack) {
  static char text[64];
  long count = *stack;
  char **arguments = (char **)(stack + 1);
  if (count < 3) fail("arguments: ", "", count);
  const char *mode = arguments[1];
  if (same(mode, "terminal")) run_on_terminal(arguments[2], arguments + 3, arguments + count + 1);
  if (same(mode, "send")) send(arguments[2], open_file(arguments[4], O_RDONLY), number(arguments[3], 4));
  if (same(mode, "vsock")) talk_on_vsock(arguments[2]);
  if (same(mode, "mounts")) mount_all(arguments[2]);
  if (same(mode, "table")) read_table(arguments[2]);
  if (same(mode, "table") || same(mode, "number")) {
    u64 value = same(mode, "table") ? dm.sectors : number(arguments[2], ~0UL), at = sizeof text - 1;
    do text[--at] = (char)('0' + value % 10); while (value /= 10);
    must(CALL(WRITE, 1, text + at, sizeof text - 1 - at), "write", "");
    must(CALL(WRITE, 1, " ", 1), "write", "");
    must(CALL(WRITE, 1, dm.table, length(dm.table)), "write", "");
  }
  finish(0);
}
