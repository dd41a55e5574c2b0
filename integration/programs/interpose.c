/* Fails or kills a program at its n-th system call on some files; `tests/faults/interposer.rs` compiles, preloads and reads it.
 *
 * Every system call that names a file or uses a descriptor is trapped with seccomp, so that nothing is missed, whichever library
 * makes it (a wrapper of libc's functions would not see those that bypass libc); the SIGSYS handler makes the call itself, from
 * the one address that the filter lets through. It counts the calls of all threads on files below the given paths.
 *
 *   VERNEUIL_FAULT_PROGRAM  name of the program that is meant; in others nothing happens
 *   VERNEUIL_FAULT_PATHS    prefixes of absolute paths, joined by ':'
 *   VERNEUIL_FAULT_MARKED   set: counting begins at the mark "arm" and ends at "disarm" (attempts to open files of that name)
 *   VERNEUIL_FAULT_AT       number of the call that is meant, from 1; 0 for none
 *   VERNEUIL_FAULT_DO       "kill" (before the call), "short" (half of the bytes), or the number of an error
 *   VERNEUIL_FAULT_LASTS    set: that call and all later ones
 *   VERNEUIL_FAULT_LOG      file that gets a line per counted call: number, name, path
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define MARKS "/verneuil-test-mark/"
#define PATH_LEN 4096
#define LOG_FD 1000 /* out of the way of those that the program gets */

/* Where a call says which file it is about. */
enum kind { FD, PATH, AT, PATHS, ATS, MAP, FDS, TO_PATH, TO_AT };

static const struct call { int nr; const char *name; enum kind kind; int len_at; } calls[] = {
#define C(name, kind) { SYS_##name, #name, kind, -1 }
#define L(name, kind, len_at) { SYS_##name, #name, kind, len_at }
    C(open, PATH), C(openat, AT), C(openat2, AT), C(creat, PATH), C(stat, PATH), C(lstat, PATH), C(fstat, FD),
    C(newfstatat, AT), C(statx, AT), C(access, PATH), C(faccessat, AT), C(faccessat2, AT), C(statfs, PATH), C(fstatfs, FD),
    L(read, FD, 2), L(pread64, FD, 2), C(readv, FD), C(preadv, FD), C(preadv2, FD),
    L(write, FD, 2), L(pwrite64, FD, 2), C(writev, FD), C(pwritev, FD), C(pwritev2, FD),
    C(truncate, PATH), C(ftruncate, FD), C(fallocate, FD), C(fadvise64, FD),
    C(fsync, FD), C(fdatasync, FD), C(sync_file_range, FD), C(syncfs, FD), C(mmap, MAP),
    C(rename, PATHS), C(renameat, ATS), C(renameat2, ATS), C(link, PATHS), C(linkat, ATS),
    C(symlink, TO_PATH), C(symlinkat, TO_AT), C(readlink, PATH), C(readlinkat, AT),
    C(unlink, PATH), C(unlinkat, AT), C(rmdir, PATH), C(mkdir, PATH), C(mkdirat, AT), C(mknod, PATH), C(mknodat, AT),
    C(chmod, PATH), C(fchmod, FD), C(fchmodat, AT), C(chown, PATH), C(lchown, PATH), C(fchown, FD), C(fchownat, AT),
    C(utimensat, AT), C(flock, FD), C(fcntl, FD), C(dup, FD), C(dup2, FD), C(dup3, FD), C(ioctl, FD),
    C(getdents, FD), C(getdents64, FD), C(copy_file_range, FDS), C(sendfile, FDS), C(splice, FDS), C(lseek, FD),
    C(name_to_handle_at, AT), C(getxattr, PATH), C(fgetxattr, FD), C(chdir, PATH), C(fchdir, FD),
    { SYS_inotify_add_watch, "inotify_add_watch", AT, -1 },
};
#define CALLS (sizeof calls / sizeof calls[0])

static char paths[PATH_LEN];
static int armed, marked, lasts, kills, shortens, error_number;
static long at, counted;

__asm__(".text\n.globl verneuil_pass\n.globl verneuil_passed\n.hidden verneuil_pass\n.hidden verneuil_passed\n"
        "verneuil_pass:\n"
        "movq %rdi, %rax\nmovq %rsi, %rdi\nmovq %rdx, %rsi\nmovq %rcx, %rdx\nmovq %r8, %r10\nmovq %r9, %r8\nmovq 8(%rsp), %r9\n"
        "syscall\nverneuil_passed:\nret\n");
extern long verneuil_pass(long nr, long a, long b, long c, long d, long e, long f);
extern char verneuil_passed[];

/* The path of a descriptor, or of `name` in the folder that the descriptor is of; empty if there is none. */
static void find(char *to, int fd, const char *name)
{
    char link[32] = "/proc/self/fd/", digits[12];
    long len = 0;
    to[0] = 0;
    if (name && name[0] == '/') {
        strncpy(to, name, PATH_LEN - 1);
        to[PATH_LEN - 1] = 0;
        return;
    }
    if (fd == AT_FDCWD) {
        strcpy(link, "/proc/self/cwd");
    } else {
        int k = 0, n = 0;
        if (fd < 0)
            return;
        do digits[k++] = '0' + fd % 10; while (fd /= 10);
        for (n = strlen(link); k > 0; )
            link[n++] = digits[--k];
        link[n] = 0;
    }
    len = verneuil_pass(SYS_readlink, (long)link, (long)to, PATH_LEN - 1, 0, 0, 0);
    if (len < 0)
        len = 0;
    to[len] = 0;
    if (name && name[0] && len + 1 + strlen(name) < PATH_LEN) {
        to[len] = '/';
        strcpy(to + len + 1, name);
    }
}

static int is_meant(const char *path)
{
    for (const char *prefix = paths; *prefix; ) {
        size_t len = strcspn(prefix, ":");
        if (len > 0 && strncmp(path, prefix, len) == 0)
            return 1;
        prefix += len + (prefix[len] == ':');
    }
    return 0;
}

static int is_mark(const char *path, const char *name)
{
    return strncmp(path, MARKS, sizeof MARKS - 1) == 0 && strcmp(path + sizeof MARKS - 1, name) == 0;
}

static void note(long number, const char *name, const char *path)
{
    char line[PATH_LEN + 64], digits[24];
    int n = 0, k = 0;
    do digits[k++] = '0' + number % 10; while (number /= 10);
    while (k > 0)
        line[n++] = digits[--k];
    line[n++] = ' ';
    n = stpcpy(line + n, name) - line;
    line[n++] = ' ';
    n = stpcpy(line + n, path) - line;
    line[n++] = '\n';
    verneuil_pass(SYS_write, LOG_FD, (long)line, n, 0, 0, 0);
}

static long decide(const struct call *call, long *a)
{
    char one[PATH_LEN], two[PATH_LEN];
    two[0] = 0;
    switch (call->kind) {
    case FD: find(one, a[0], NULL); break;
    case MAP: find(one, a[4], NULL); break;
    case PATH: find(one, AT_FDCWD, (char *)a[0]); break;
    case TO_PATH: find(one, AT_FDCWD, (char *)a[1]); break;
    case AT: find(one, a[0], (char *)a[1]); break;
    case TO_AT: find(one, a[1], (char *)a[2]); break;
    case PATHS: find(one, AT_FDCWD, (char *)a[0]); find(two, AT_FDCWD, (char *)a[1]); break;
    case ATS: find(one, a[0], (char *)a[1]); find(two, a[2], (char *)a[3]); break;
    case FDS: find(one, a[0], NULL); find(two, a[call->nr == SYS_sendfile ? 1 : 2], NULL); break;
    }
    if (marked && is_mark(one, "arm"))
        armed = 1;
    else if (marked && is_mark(one, "disarm"))
        armed = 0;
    if (armed && (is_meant(one) || is_meant(two))) {
        long number = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
        int is_it = at > 0 && (number == at || (lasts && number > at));
        note(number, call->name, two[0] && !is_meant(one) ? two : one);
        if (is_it && kills) {
            verneuil_pass(SYS_kill, getpid(), SIGKILL, 0, 0, 0, 0);
        } else if (is_it && shortens) {
            if (call->len_at >= 0 && a[call->len_at] > 1)
                a[call->len_at] /= 2;
        } else if (is_it) {
            return -error_number;
        }
    }
    return verneuil_pass(call->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* SIGSYS must not be blocked, or the next trapped call kills the program: whoever blocks all signals blocks all but this one. */
static long mask(ucontext_t *context, long *a)
{
    unsigned long set = a[1] ? *(unsigned long *)a[1] & ~(1UL << (SIGSYS - 1)) : 0;
    long done = verneuil_pass(SYS_rt_sigprocmask, a[0], a[1] ? (long)&set : 0, a[2], a[3], 0, 0);
    /* The mask that holds after the handler's return. */
    verneuil_pass(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&context->uc_sigmask, sizeof set, 0, 0);
    return done;
}

static void trapped(int signal, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    long a[6] = { r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9] };
    int saved = errno;
    (void)signal;
    r[REG_RAX] = -ENOSYS;
    if (info->si_syscall == SYS_rt_sigprocmask)
        r[REG_RAX] = mask(context, a);
    for (size_t k = 0; k < CALLS; k++)
        if (calls[k].nr == info->si_syscall)
            r[REG_RAX] = decide(&calls[k], a);
    errno = saved;
}

__attribute__((constructor)) static void start(void)
{
    static struct sock_filter filter[2 * CALLS + 16];
    const char *program = getenv("VERNEUIL_FAULT_PROGRAM"), *what = getenv("VERNEUIL_FAULT_DO"), *log;
    struct sigaction action = { .sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER };
    struct sock_fprog installed = { .filter = filter };
    unsigned long pass = (unsigned long)verneuil_passed;
    int n = 0, fd;
    if (!program || strcmp(program, program_invocation_short_name) != 0)
        return;
    log = getenv("VERNEUIL_FAULT_LOG");
    fd = log ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (!what || !getenv("VERNEUIL_FAULT_PATHS") || !getenv("VERNEUIL_FAULT_AT") || fd < 0
        || dup3(fd, LOG_FD, O_CLOEXEC) < 0)
        abort();
    close(fd);
    strncpy(paths, getenv("VERNEUIL_FAULT_PATHS"), sizeof paths - 1);
    at = atol(getenv("VERNEUIL_FAULT_AT"));
    marked = getenv("VERNEUIL_FAULT_MARKED") != NULL;
    lasts = getenv("VERNEUIL_FAULT_LASTS") != NULL;
    armed = !marked;
    kills = strcmp(what, "kill") == 0;
    shortens = strcmp(what, "short") == 0;
    error_number = atoi(what);
#define LOAD(field, off) (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field) + (off))
#define SKIP_UNLESS(value, no) (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, (no))
#define ANSWER(value) (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, (value))
    filter[n++] = LOAD(instruction_pointer, 0);
    filter[n++] = SKIP_UNLESS((unsigned)pass, 3);
    filter[n++] = LOAD(instruction_pointer, 4);
    filter[n++] = SKIP_UNLESS((unsigned)(pass >> 32), 1);
    filter[n++] = ANSWER(SECCOMP_RET_ALLOW);
    filter[n++] = LOAD(nr, 0);
    /* Memory without a file is mapped where signals are blocked, too. */
    filter[n++] = SKIP_UNLESS(SYS_mmap, 3);
    filter[n++] = LOAD(args[4], 0);
    filter[n++] = SKIP_UNLESS(0xffffffff, 2);
    filter[n++] = ANSWER(SECCOMP_RET_ALLOW);
    filter[n++] = SKIP_UNLESS(0xffffffff, 0);
    filter[n++] = LOAD(nr, 0);
    for (size_t k = 0; k < CALLS; k++) {
        filter[n++] = SKIP_UNLESS(calls[k].nr, 1);
        filter[n++] = ANSWER(SECCOMP_RET_TRAP);
    }
    filter[n++] = SKIP_UNLESS(SYS_rt_sigprocmask, 1);
    filter[n++] = ANSWER(SECCOMP_RET_TRAP);
    filter[n++] = ANSWER(SECCOMP_RET_ALLOW);
    installed.len = n;
    if (sigaction(SIGSYS, &action, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &installed) != 0)
        abort();
}
