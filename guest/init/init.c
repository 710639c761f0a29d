/*
 * The one native program of the guest. It does what Node cannot do, and nothing else (docs/rfc/0001-native-helper.md).
 *
 * As process 1 it takes the machine from the initrd into the verified root and starts the agent:
 *   /modules/order         in the initrd: modules in the order of loading, one file name a line, relative to /modules; a `?` at the end: may fail
 *   dm-mod.create="..."    on the kernel's command line: the root's dm-verity table, and nothing but such a table
 *   /etc/sealpod/mounts    in the root: lines `type target options`; ro, nosuid, nodev and noexec are flags, the rest is the file system's
 *   /etc/sealpod/init      in the root: the agent's program, an absolute path, and its arguments, one a line
 * Whatever fails on this way stops the machine with one line on the console. Nothing is ever tried twice, or in another way: a guest that came
 * up differently from what was measured is worse than one that did not come up. When the agent ends, so does the machine.
 *
 * In the root it is /usr/lib/sealpod/helper:
 *   helper console SOCKET                  one terminal of a container: see console()
 *   helper listen-vsock PORT PROGRAM ...   PROGRAM with a listening AF_VSOCK socket as descriptor 3
 *   helper load FILE ...                   kernel modules, in this order
 *   helper power-off
 *
 * Freestanding: no C library, no heap, no headers; numbers and layouts are the kernel's ABI of x86-64, where they never change. Buffers are static,
 * as the program does one thing in its life, and bounded: what does not fit is refused, not cut.
 */
#if !defined(__x86_64__) || !defined(__linux__)
#error "system call numbers below are those of Linux on x86-64"
#endif

typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long u64;

/* asm/unistd_64.h, asm-generic/errno.h, fcntl.h, linux/mount.h, linux/socket.h */
enum { READ = 0, WRITE = 1, OPEN = 2, CLOSE = 3, POLL = 7, SIGPROCMASK = 14, IOCTL = 16, DUP2 = 33, GETPID = 39, SOCKET = 41, RECVMSG = 47, BIND = 49 };
enum { LISTEN = 50, FORK = 57, EXECVE = 59, WAIT4 = 61, KILL = 62, FCNTL = 72, CHDIR = 80, MKDIR = 83, UNLINK = 87, UMASK = 95, SETSID = 112, PRCTL = 157 };
enum { CHROOT = 161, SYNC = 162, MOUNT = 165, REBOOT = 169, EXIT_GROUP = 231, ACCEPT4 = 288, PRLIMIT64 = 302, FINIT_MODULE = 313, CLOSE_RANGE = 436 };
enum { EINTR = 4, E2BIG = 7, EAGAIN = 11, EEXIST = 17, EINVAL = 22 };
enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_NOCTTY = 0400, O_NONBLOCK = 04000, O_CLOEXEC = 02000000 };
enum { MS_RDONLY = 1, MS_NOSUID = 2, MS_NODEV = 4, MS_NOEXEC = 8, MS_MOVE = 8192 };
enum { AF_UNIX = 1, AF_INET = 2, AF_VSOCK = 40, SOCK_STREAM = 1, SOCK_DGRAM = 2, SOCK_CLOEXEC = O_CLOEXEC };

/* Room for a text file, the program's words, a mount's options, the verity table, and what is on its way in one direction of a relay. */
enum { FILE_MAX = 8192, ARGUMENTS_MAX = 64, OPTIONS_MAX = 512, TABLE_MAX = 1024, BLOCK = 4096 };

/* All arguments pass as longs: a descriptor of -1 must not become 4294967295, which an int in a variable list may. */
#define CALL(number, ...) CALL_ALL(number, __VA_ARGS__, 0, 0, 0, 0, 0)
#define CALL_ALL(number, a, b, c, d, e, ...) system_call(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))
long system_call(long number, long a, long b, long c, long d, long e);
__attribute__((noreturn)) void start(long *stack);

/* A process begins with argc, argv and envp on its stack, and without a return address. The kernel's convention wants the number in rax and
 * its fourth argument in r10, which are not where C puts them. */
__asm__(".text\n.globl _start\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call start\n"
        ".globl system_call\nsystem_call:\n  mov %rdi, %rax\n  mov %rsi, %rdi\n  mov %rdx, %rsi\n  mov %rcx, %rdx\n"
        "  mov %r8, %r10\n  mov %r9, %r8\n  syscall\n  ret\n");

/* ---- Texts ---- */

/* How many bytes come before `end`, or before the end of the text. */
static u64 until(const char *text, char end) {
  u64 bytes = 0;
  while (text[bytes] && text[bytes] != end) bytes++;
  return bytes;
}

static u64 length(const char *text) { return until(text, 0); }

/* The length of `prefix` if `text` begins with it, else 0. */
static u64 begins(const char *text, const char *prefix) {
  u64 bytes = 0;
  while (prefix[bytes] && text[bytes] == prefix[bytes]) bytes++;
  return prefix[bytes] ? 0 : bytes;
}

static int same(const char *a, const char *b) { return length(a) == length(b) && begins(a, b) == length(b); }

/* Appends to the text in `bytes`, of `size` bytes with its NUL. 0 if not all of it fits. */
static int append(char *bytes, u64 size, const char *string) {
  u64 end = length(bytes);
  while (*string && end + 1 < size) bytes[end++] = *string++;
  bytes[end] = 0;
  return !*string;
}

/* Cuts the next piece off a text, in place; null at its end. */
static char *cut(char **text, char separator) {
  char *piece = *text, *end = piece + until(piece, separator);
  if (!*piece) return 0;
  *text = *end ? end + 1 : end;
  *end = 0;
  return piece;
}

/* ---- Failure ---- */

/* One line on the console, or to the caller: the texts, then the number without its sign. Nobody is told if this fails: who would tell? */
static void say(const char *what, const char *name, const char *label, long number) {
  static char line[FILE_MAX], digits[] = "                    \n";
  char *digit = digits + sizeof digits - 2;
  u64 rest = number < 0 ? -(u64)number : (u64)number;
  do *--digit = (char)('0' + rest % 10); while (rest /= 10);
  const char *const texts[] = { "sealpod-init: ", what, name, label, digit };
  line[0] = 0;
  /* A long name does not push what comes behind it out of the line. */
  for (u32 i = 0; i < sizeof texts / sizeof *texts; i++) append(line, sizeof line - (i < 3 ? 64 : 0), texts[i]);
  CALL(WRITE, 2, line, length(line));
}

/* Ends this process; if it is the first, the machine. Results are not looked at: there is no way but the next line, and the last, a first process
 * that exits, is a kernel panic. */
__attribute__((noreturn)) static void finish(int status) {
  if (CALL(GETPID, 0) == 1) {
    CALL(KILL, -1, 9);                /* No container outlives the agent, not even while a slow disk is written. */
    CALL(IOCTL, 2, 0x5409, 1);        /* TCSBRK: waits until the console has sent everything. */
    CALL(SYNC, 0);
    CALL(REBOOT, 0xfee1dead, 672274793, 0x4321fedc, 0);
  }
  for (;;) CALL(EXIT_GROUP, status);
}

__attribute__((noreturn)) static void fail(const char *what, const char *name, long error) {
  say(what, name, ": error ", error);
  finish(1);
}

static long must(long result, const char *what, const char *name) {
  if (result < 0) fail(what, name, result);
  return result;
}

/* A decimal number. Eighteen digits cannot overflow. */
static u64 number(const char *text, u64 most) {
  u64 value = 0, digits = 0;
  for (; text[digits] >= '0' && text[digits] <= '9' && digits < 18; digits++) value = value * 10 + (u64)(text[digits] - '0');
  if (digits == 0 || text[digits] || value > most) fail("not a number here: ", text, EINVAL);
  return value;
}

/* ---- Files ---- */

/* Opens a file. What process 1 opens on its way is closed in one call before the agent starts, and never passed on. */
static long open_file(const char *path, int flags) { return must(CALL(OPEN, path, flags | O_CLOEXEC), "open ", path); }

/* A whole text file. A NUL would hide what is behind it, so there must be none. */
static char *read_file(const char *path, char *bytes, u64 size) {
  long file = open_file(path, O_RDONLY);
  u64 end = 0;
  for (long got = 1; got > 0; end += (u64)got) {
    if (end + 1 >= size) fail("too long: ", path, E2BIG);
    got = must(CALL(READ, file, bytes + end, size - 1 - end), "read ", path);
  }
  bytes[end] = 0;
  if (length(bytes) != end) fail("not a text: ", path, EINVAL);
  return bytes;
}

/* Loads a kernel module. One that is there already is what was asked for. A `?` behind the name: the machine does without it. */
static void load(char *name) {
  u64 size = length(name);
  int optional = size > 0 && name[size - 1] == '?';
  if (optional) name[size - 1] = 0;
  long file = CALL(OPEN, name, O_RDONLY | O_CLOEXEC), result = file < 0 ? file : CALL(FINIT_MODULE, file, "", 0);
  if (result >= 0 || result == -EEXIST) return;
  if (!optional) fail("load ", name, result);
  say("load ", name, ": error ", result);
}

/* ---- Process 1 ---- */

static void mount(const char *source, const char *target, const char *type, u64 flags, const char *options) {
  CALL(MKDIR, target, 0755); /* What is wrong with the directory, the mount tells. */
  must(CALL(MOUNT, source, target, type, flags, options), "mount ", target);
}

/* Mounts what the lines `type target options` say, in order. */
static void mount_all(char *lines) {
  static char options[OPTIONS_MAX];
  for (char *line; (line = cut(&lines, '\n'));) {
    const char *type = cut(&line, ' '), *target = cut(&line, ' '), *option;
    u64 flags = 0, flag;
    options[0] = 0;
    if (!type || !target || *target != '/') fail("not a line of mounts: ", type ? type : "(empty)", EINVAL);
    for (; (option = cut(&line, ',')); flags |= flag) {
      flag = same(option, "ro") ? MS_RDONLY : same(option, "nosuid") ? MS_NOSUID : same(option, "nodev") ? MS_NODEV : same(option, "noexec") ? MS_NOEXEC : 0;
      if (!flag && !(append(options, sizeof options, *options ? "," : "") && append(options, sizeof options, option))) fail("options: ", target, E2BIG);
    }
    mount(type, target, type, flags, options);
  }
}

/* Finds the quoted value of dm-mod.create= in the command line and cuts it out. Words inside the quotes of other parameters do not count, and there
 * must be exactly one: who reads the measured line must not be able to read another table than this program does. */
static char *find_table(char *line) {
  char *table = 0;
  int tables = 0, quoted = 0;
  for (int at_word = 1; *line; at_word = !quoted && *line == ' ', line++) {
    u64 name = at_word ? begins(line, "dm-mod.create=\"") : 0;
    if (name) table = line + name;
    tables += name > 0, quoted ^= *line == '"';
  }
  if (tables != 1 || quoted) fail("not one quoted ", "dm-mod.create", EINVAL);
  table[until(table, '"')] = 0;
  return table;
}

static struct { /* linux/dm-ioctl.h: struct dm_ioctl, struct dm_target_spec, the target's text */
  u32 version[3], data_size, data_start, target_count, open_count, flags, event_number, padding;
  u64 device; char name[128], uuid[129], data[7];
  u64 sector_start, sectors; u32 status, next; char type[16], table[TABLE_MAX];
} dm = { { 4, 0, 0 }, 0, 312, 0, 0, 0, 0, 0, 0, "sealpod-root", "", "", 0, 0, 0, 0, "verity", "" };

/* Takes over the root's table. Only one read-only dm-verity device that stops the machine at the first wrong block is accepted: nothing else that may
 * stand there is a verified root. The rest of the text is the kernel's to judge. */
static void read_table(char *command_line) {
  static const char stops[] = " panic_on_corruption";
  char *table = find_table(command_line);
  u64 head = begins(table, "sealpod-root,,,ro,0 ");
  table += head;
  const char *sectors = cut(&table, ' '), *type = cut(&table, ' ');
  if (!head || !type || !same(type, dm.type)) fail("not a read-only verity table: ", "dm-mod.create", EINVAL);
  if (table[until(table, ',')] || table[until(table, ';')]) fail("more than one table: ", "dm-mod.create", EINVAL);
  if (length(table) < sizeof stops || !same(table + length(table) - (sizeof stops - 1), stops)) fail("no panic_on_corruption: ", "dm-mod.create", EINVAL);
  if (!append(dm.table, sizeof dm.table, table)) fail("too long: ", "dm-mod.create", E2BIG);
  dm.sectors = number(sectors, ~0UL);
}

/* The kernel answers into the same structure: what the next call reads is set anew. */
static void dm_call(long control, u32 command, u32 flags, const char *name) {
  dm.data_size = sizeof dm, dm.target_count = 1, dm.flags = flags, dm.device = 0;
  must(CALL(IOCTL, control, 0xc138fd00 | command, &dm), "dm-verity: ", name);
}

/* Makes /dev/dm-0. A wrong root hash shows when the first block is read, in the mount. */
static void open_root(void) {
  long control = open_file("/dev/mapper/control", O_RDWR);
  dm_call(control, 3, 0, "create");                      /* DM_DEV_CREATE */
  dm_call(control, 9, 1 /* DM_READONLY_FLAG */, "load"); /* DM_TABLE_LOAD */
  dm_call(control, 6, 1, "resume");                      /* DM_DEV_SUSPEND without its flag */
}

/* Starts the agent in a session of its own. Its environment is this, whatever the kernel made of words on its command line. */
static long start_agent(void) {
  static char file[FILE_MAX], *arguments[ARGUMENTS_MAX + 1];
  static char *environment[] = { "PATH=/usr/sbin:/usr/bin", "HOME=/", 0 };
  static u64 no_signals;
  char *lines = read_file("/etc/sealpod/init", file, sizeof file), *line;
  for (u32 count = 0; (line = cut(&lines, '\n')); arguments[count++] = line)
    if (count == ARGUMENTS_MAX) fail("too many arguments: ", "/etc/sealpod/init", E2BIG);
  if (!arguments[0] || *arguments[0] != '/') fail("no program in ", "/etc/sealpod/init", EINVAL);
  must(CALL(CLOSE_RANGE, 3, 0xffffffff, 0), "close_range", "");
  long agent = must(CALL(FORK, 0), "fork", "");
  if (agent > 0) return agent;
  must(CALL(SETSID, 0), "setsid", "");
  must(CALL(SIGPROCMASK, 2 /* SIG_SETMASK */, &no_signals, 0, sizeof no_signals), "sigprocmask", "");
  fail("start ", arguments[0], CALL(EXECVE, arguments[0], arguments, environment));
}

__attribute__((noreturn)) static void boot(void) {
  static char file[FILE_MAX];
  static char kernel_mounts[] = "devtmpfs /dev nosuid,noexec,mode=755\nproc /proc nosuid,nodev,noexec\nsysfs /sys nosuid,nodev,noexec\n";
  static char root_mounts[] = "devpts /dev/pts nosuid,noexec,mode=620,ptmxmode=666\ntmpfs /dev/shm nosuid,nodev,mode=1777\n"
                              "cgroup2 /sys/fs/cgroup nosuid,nodev,noexec,nsdelegate\n";
  static const char controllers[] = "/sys/fs/cgroup/cgroup.subtree_control", wanted[] = "+cpu +memory +pids +io +cpuset";
  static const char *const moved[] = { "/dev", "/proc", "/sys" }, *const below_root[] = { "/root/dev", "/root/proc", "/root/sys" };
  static struct { char name[16]; u16 flags; char rest[22]; } loopback = { "lo", 1 /* IFF_UP */, "" }; /* It gets 127.0.0.1 when it goes up. */
  static const u64 descriptors[] = { 1048576, 1048576 }; /* The most that fs.nr_open lets pass, unless it is changed. */

  CALL(UMASK, 022);
  mount_all(kernel_mounts);
  /* The kernel may have given this process no descriptors, or others. The first opened may be any of 0 to 3; 0 is set last. */
  long console = open_file("/dev/console", O_RDWR | O_NOCTTY);
  for (int i = 1; i <= 2; i++) must(CALL(DUP2, console, i), "dup ", "/dev/console");
  must(CALL(DUP2, open_file("/dev/null", O_RDONLY), 0), "dup ", "/dev/null");

  must(CALL(CHDIR, "/modules"), "chdir ", "/modules");
  char *lines = read_file("order", file, sizeof file);
  for (char *name; (name = cut(&lines, '\n'));) load(name);

  read_table(read_file("/proc/cmdline", file, sizeof file));
  open_root();
  mount("/dev/dm-0", "/root", "erofs", MS_RDONLY | MS_NOSUID | MS_NODEV, "");
  for (u32 i = 0; i < sizeof moved / sizeof *moved; i++) must(CALL(MOUNT, moved[i], below_root[i], 0, MS_MOVE, 0), "move ", moved[i]);
  /* The initrd cannot be pivoted away, only covered; a container's pivot_root works from here. */
  must(CALL(CHDIR, "/root"), "chdir ", "/root");
  must(CALL(MOUNT, ".", "/", 0, MS_MOVE, 0), "move ", "/root");
  must(CALL(CHROOT, "."), "chroot ", "/root");
  must(CALL(CHDIR, "/"), "chdir ", "/");

  mount_all(root_mounts);
  mount_all(read_file("/etc/sealpod/mounts", file, sizeof file));
  must(CALL(WRITE, open_file(controllers, O_WRONLY), wanted, sizeof wanted - 1), "write ", controllers);
  must(CALL(IOCTL, must(CALL(SOCKET, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket", ""), 0x8914 /* SIOCSIFFLAGS */, &loopback), "up ", loopback.name);
  must(CALL(PRLIMIT64, 0, 7 /* RLIMIT_NOFILE */, descriptors, 0), "prlimit", "");

  /* Every orphan of the machine becomes a child of this process: all are waited for, whoever they are. */
  int status;
  long agent = start_agent(), ended;
  do ended = must(CALL(WAIT4, -1, &status, 0, 0), "wait", ""); while (ended != agent);
  if (status & 0x7f) say("agent ended with ", "signal", " ", status & 0x7f);
  else say("agent ended with", "", " ", status >> 8 & 0xff);
  finish(0);
}

/* ---- The helper of the agent ---- */

/* Takes the one descriptor that the one client of the socket sends. */
static int receive_terminal(const char *path) {
  static struct { u16 family; char path[108]; } address = { AF_UNIX, "" };
  static char name[BLOCK]; /* What the runtime writes beside it: the name of the terminal. */
  static struct { u64 length; u32 level, type; int descriptor, padding; } control;
  static struct { void *bytes; u64 size; } vector = { name, sizeof name };
  static struct { void *name; u64 name_length; void *vectors; u64 vector_count; void *control; u64 control_length; u32 flags; } message = { 0, 0, &vector, 1, &control, 20, 0 };
  if (!*path || !append(address.path, sizeof address.path, path)) fail("not a path of a socket: ", path, EINVAL);
  CALL(UMASK, 0177); /* The socket's mode is 0600 from its first moment. */
  long listener = must(CALL(SOCKET, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket", "");
  must(CALL(BIND, listener, &address, sizeof address), "bind ", path);
  must(CALL(LISTEN, listener, 1), "listen ", path);
  must(CALL(WRITE, 4, "ready\n", 6), "write ", "ready");
  must(CALL(CLOSE, 4), "close ", "ready");
  long client = must(CALL(ACCEPT4, listener, 0, 0, SOCK_CLOEXEC), "accept ", path);
  must(CALL(UNLINK, path), "unlink ", path);
  must(CALL(RECVMSG, client, &message, 0x40000000 /* MSG_CMSG_CLOEXEC */), "receive ", path);
  /* SOL_SOCKET, SCM_RIGHTS; MSG_CTRUNC: there were more than the room takes. */
  if (control.length != 20 || control.level != 1 || control.type != 1 || message.flags & 8) fail("no terminal came through ", path, EINVAL);
  return control.descriptor;
}

/* One direction of a relay: holds one block, and reads the next when that is written. A descriptor that has come to its end is -1. */
struct direction { int from, to; u64 begin, end; char block[BLOCK]; };

static void move(struct direction *way, int readable, int writable) {
  if (readable) {
    long got = CALL(READ, way->from, way->block, BLOCK);
    if (got <= 0 && got != -EAGAIN && got != -EINTR) way->from = -1;
    way->begin = 0, way->end = got > 0 ? (u64)got : 0;
  }
  /* What was just read is tried at once: both targets refuse rather than wait. */
  if ((readable || writable) && way->begin < way->end && way->to >= 0) {
    long put = CALL(WRITE, way->to, way->block + way->begin, way->end - way->begin);
    if (put < 0 && put != -EAGAIN && put != -EINTR) way->to = -1;
    if (put > 0) way->begin += (u64)put;
  }
  if (way->to < 0) way->begin = way->end; /* Nobody wants it: what comes is dropped, so that its writer does not stand still. */
}

/*
 * Relays one terminal of a container: descriptor 0 to the terminal, the terminal to 1, its sizes from 3 (rows and columns, 16 bits each, little
 * endian). Listens on the socket `path` for the runtime's --console-socket, says "ready\n" on 4, which it closes, and takes one terminal from there.
 * The end of 0 closes nothing: a terminal has no half-closed state, and its programs live on. The relay ends when no process has the
 * terminal open any more, after everything that was written to it has been passed on; with 0. It dies with the process that started it.
 */
__attribute__((noreturn)) static void console(const char *path) {
  static struct direction input = { 0, -1, 0, 0, "" }, output = { -1, 1, 0, 0, "" };
  static struct { u16 rows, columns, width, height; } size;
  static struct { int descriptor; u16 events, seen; } polled[] = { { -1, 1 /* POLLIN */, 0 }, { -1, 4 /* POLLOUT */, 0 }, { -1, 1, 0 }, { -1, 4, 0 }, { 3, 1, 0 } };
  static const u64 broken_pipe = 1 << 12; /* SIGPIPE, which stays blocked: its error number is enough. */
  u64 size_bytes = 0;
  must(CALL(PRCTL, 1 /* PR_SET_PDEATHSIG */, 9), "prctl", "");
  must(CALL(SIGPROCMASK, 0 /* SIG_BLOCK */, &broken_pipe, 0, sizeof broken_pipe), "sigprocmask", "");
  /* A missing one would be given to the socket below. */
  for (int i = 0; i <= 4; i++) must(CALL(FCNTL, i, 1 /* F_GETFD */), "a descriptor of 0 to 4 is not open", "");
  int terminal = input.to = output.from = receive_terminal(path);
  must(CALL(IOCTL, terminal, 0x5413 /* TIOCGWINSZ */, &size), "not a terminal: ", path);
  /* A write that waits would hold up the other direction, and that may be what it waits for. */
  must(CALL(FCNTL, terminal, 4 /* F_SETFL */, O_NONBLOCK), "fcntl ", path);
  must(CALL(FCNTL, output.to, 4, O_NONBLOCK), "fcntl ", "1");
  while (output.from >= 0) { /* It is read only when all that was read before is written: at its end, nothing is left. */
    int in_full = input.begin < input.end, out_full = output.begin < output.end;
    polled[0].descriptor = in_full ? -1 : input.from, polled[1].descriptor = in_full ? input.to : -1;
    polled[2].descriptor = out_full ? -1 : output.from, polled[3].descriptor = out_full ? output.to : -1;
    long seen = CALL(POLL, polled, sizeof polled / sizeof *polled, -1);
    if (seen == -EINTR) continue;
    must(seen, "poll", "");
    move(&input, polled[0].seen, polled[1].seen);
    move(&output, polled[2].seen, polled[3].seen);
    if (input.to < 0) input.from = -1;
    if (!polled[4].seen) continue;
    long got = CALL(READ, polled[4].descriptor, (char *)&size + size_bytes, 4 - size_bytes);
    if (got <= 0 && got != -EINTR) polled[4].descriptor = -1;
    if (got > 0) size_bytes += (u64)got;
    if (size_bytes == 4) must(CALL(IOCTL, terminal, 0x5414 /* TIOCSWINSZ */, &size), "resize ", path);
    size_bytes &= 3;
  }
  finish(0);
}

/* Replaces this process with a program that finds a listening socket as descriptor 3. */
__attribute__((noreturn)) static void listen_vsock(const char *port, char **program, char **environment) {
  static struct { u16 family, reserved; u32 port, cid; char rest[4]; } address = { AF_VSOCK, 0, 0, 0xffffffff /* VMADDR_CID_ANY */, "" };
  address.port = (u32)number(port, 0xfffffffe);
  CALL(CLOSE, 3); /* It is taken if it was open; the lowest free number is then 3. */
  long listener = must(CALL(SOCKET, AF_VSOCK, SOCK_STREAM, 0), "socket of vsock, port ", port);
  if (listener != 3) fail("a descriptor of 0 to 2 is not open, port ", port, EINVAL);
  must(CALL(BIND, listener, &address, sizeof address), "bind vsock, port ", port);
  must(CALL(LISTEN, listener, 16), "listen on vsock, port ", port);
  fail("start ", program[0], CALL(EXECVE, program[0], program, environment));
}

void start(long *stack) {
  long count = *stack;
  char **arguments = (char **)(stack + 1);
  const char *mode = count > 1 ? arguments[1] : "";
  if (CALL(GETPID, 0) == 1) boot(); /* Arguments and environment are words of the command line, which the kernel did not know: not looked at. */
  if (same(mode, "console") && count == 3) console(arguments[2]);
  if (same(mode, "listen-vsock") && count >= 4) listen_vsock(arguments[2], arguments + 3, arguments + count + 1);
  if (same(mode, "load") && count >= 3) {
    for (long i = 2; i < count; i++) load(arguments[i]);
    finish(0);
  }
  if (same(mode, "power-off") && count == 2) {
    CALL(SYNC, 0);
    must(CALL(REBOOT, 0xfee1dead, 672274793, 0x4321fedc, 0), "power off", "");
  }
  say("usage: helper console SOCKET | listen-vsock PORT PROGRAM ... | load FILE ... | power-off; arguments", "", ": ", count - 1);
  finish(2);
}
