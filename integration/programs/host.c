/* A C program with an SQLite, for tests/host_process: one command per line on standard input, one answer per line on standard output.
   host.py and host.php understand the same commands, except those marked C. Compiled against the headers of SQLite 3.31. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <grp.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "sqlite3.h"
#ifdef __SSE__
#include <xmmintrin.h>
/* How floating point behaves; not what has happened in it. */
#define FLOATING_POINT() (_mm_getcsr() & ~0x3fu)
#else
#define FLOATING_POINT() 0u
#endif

enum {
    CONNECTIONS_MAX = 4096,
    THREADS_MAX = 16,
    CHILDREN_MAX = 64,
    COMMIT_PAUSE_US = 3000,
    BUSY_LIMIT_MS = 20000,
    CHILD_LIMIT_S = 30, /* whatever hangs is ended by the kernel */
    /* Small, as in programs with thousands of threads; SQLite itself takes about 30 KiB of it. */
    THREAD_STACK_BYTES = 128 << 10,
};

static const char *extension, *uri;
static sqlite3 *connections[CONNECTIONS_MAX];
static int connections_count;
static pid_t children[CHILDREN_MAX];
static int children_count;
static pthread_t threads[THREADS_MAX];
static int threads_count;
static _Atomic int stop, failures, commits;
static char late[256];
static FILE *answers;

static int fail(char *answer, const char *what, const char *why) {
    snprintf(answer, 4096, "error %s: %s", what, why);
    return 0;
}

static sqlite3 *open_one(const char *name, char *answer) {
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(name, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, NULL) != SQLITE_OK) {
        fail(answer, "open", sqlite3_errmsg(db));
        sqlite3_close(db);
        return NULL;
    }
    sqlite3_busy_timeout(db, BUSY_LIMIT_MS);
    /* No power fails here, and with many threads a slow disk would decide how long all this takes. */
    sqlite3_exec(db, "PRAGMA synchronous=OFF", NULL, NULL, NULL);
    return db;
}

static int first_column(void *into, int count, char **columns, char **names) {
    (void)names;
    if (count > 0 && columns[0] != NULL && *(char *)into == 0) snprintf(into, 3900, "%s", columns[0]);
    return 0;
}

static int load(char *answer) {
    char *why = NULL;
    sqlite3 *db = open_one(":memory:", answer);
    if (db == NULL) return 0;
    sqlite3_enable_load_extension(db, 1);
    if (sqlite3_load_extension(db, extension, NULL, &why) != SQLITE_OK) {
        fail(answer, "load", why);
        sqlite3_free(why);
        sqlite3_close(db);
        return 0;
    }
    sqlite3_close(db);
    return 1;
}

static int sql(sqlite3 *db, const char *text, char *row) {
    char *why = NULL;
    row[0] = 0;
    if (db == NULL) return fail(row, text, "no connection");
    if (sqlite3_exec(db, text, first_column, row, &why) != SQLITE_OK) {
        fail(row, text, why);
        sqlite3_free(why);
        return 0;
    }
    return 1;
}

/* So many commits, by this one. */
static int work(const char *rest, char *answer) {
    int who = 0, count = 0;
    if (sscanf(rest, "%d %d", &who, &count) != 2) return fail(answer, "work", "who, and how many commits?");
    sqlite3 *db = connections_count > 0 ? connections[connections_count - 1] : NULL;
    char text[128];
    snprintf(text, sizeof text, "INSERT INTO t VALUES(%d, randomblob(2000))", who);
    for (; count > 0; count--) {
        if (!sql(db, text, answer)) return 0;
        usleep(COMMIT_PAUSE_US);
    }
    return 1;
}

/* A commit in every round, each second of them through a connection that is opened for it. */
static void *commit_on(void *number) {
    char answer[4096];
    sqlite3 *db = open_one(uri, answer);
    while (db != NULL && !stop) {
        char text[128];
        snprintf(text, sizeof text, "INSERT INTO t VALUES(%ld, randomblob(2000))", (long)(intptr_t)number);
        if (!sql(db, text, answer)) break;
        commits++;
        /* SQLite's waiting is not fair: without a pause, others starve. */
        usleep(COMMIT_PAUSE_US);
        if (commits % 2 == 0) {
            sqlite3 *old = db;
            if ((db = open_one(uri, answer)) == NULL) break;
            sqlite3_close(old);
        }
    }
    if (!stop) {
        failures++;
        fprintf(stderr, "thread: %s\n", answer);
    }
    sqlite3_close(db);
    return NULL;
}

static int start_threads(int count) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
    stop = 0;
    while (threads_count < count && threads_count < THREADS_MAX) {
        if (pthread_create(&threads[threads_count], &attributes, commit_on, (void *)(intptr_t)(1000 + threads_count)) != 0) break;
        threads_count++;
    }
    pthread_attr_destroy(&attributes);
    return threads_count == count;
}

static void join_threads(void) {
    stop = 1;
    while (threads_count > 0) pthread_join(threads[--threads_count], NULL);
}

/* What only the process itself can tell; the rest is in /proc. */
static void state(char *answer) {
    uint64_t handlers = 1469598103934665603u, environment = handlers;
    for (int number = 1; number <= 64; number++) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        if (sigaction(number, NULL, &action) != 0) continue;
        uint64_t words[3] = {(uint64_t)(uintptr_t)action.sa_handler, (uint64_t)action.sa_flags, 0};
        memcpy(&words[2], &action.sa_mask, sizeof words[2]);
        for (int i = 0; i < 3; i++) handlers = (handlers ^ words[i]) * 1099511628211u;
    }
    extern char **environ;
    for (char **entry = environ; *entry != NULL; entry++)
        for (char *byte = *entry; *byte != 0; byte++) environment = (environment ^ (unsigned char)*byte) * 1099511628211u;
    stack_t stack;
    sigaltstack(NULL, &stack);
    sigset_t mask;
    uint64_t masked = 0;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    memcpy(&masked, &mask, sizeof masked);
    mode_t files = umask(077);
    umask(files);
    snprintf(answer, 4096,
             "handlers=%016llx mask=%016llx altstack=%p/%d rounding=%d mxcsr=%x umask=%03o locale=%s environ=%p/%016llx",
             (unsigned long long)handlers, (unsigned long long)masked, stack.ss_sp, stack.ss_flags, fegetround(),
             FLOATING_POINT(), files, setlocale(LC_ALL, NULL), (void *)environ, (unsigned long long)environment);
}

/* From now on it has so many threads at most, its first one included; for root there is no such limit, and so it becomes somebody else. */
static int refuse_threads(const char *rest, char *answer) {
    unsigned count = 0, user = 0;
    struct rlimit limit;
    if (sscanf(rest, "%u %u", &count, &user) != 2) return fail(answer, "threads_max", "how many, and whose?");
    if (getrlimit(RLIMIT_NPROC, &limit) != 0) return fail(answer, "getrlimit", strerror(errno));
    limit.rlim_cur = count;
    if (setrlimit(RLIMIT_NPROC, &limit) != 0) return fail(answer, "setrlimit", strerror(errno));
    if (geteuid() == user) return 1;
    if (setgroups(0, NULL) != 0 || setresgid(user, user, user) != 0 || setresuid(user, user, user) != 0)
        return fail(answer, "setresuid", strerror(errno));
    /* Its own /proc is its own, as if it had been started like this. */
    prctl(PR_SET_DUMPABLE, 1);
    return 1;
}

static int run(char *line, char *answer);

/* SQLite's static mutexes, in the order in which it takes them itself. One that another thread holds at a fork stays locked in the child for ever,
   with every VFS; a program that forks while its threads use SQLite must do this. What a thread holds inside of a VFS is the VFS's affair. */
static const int static_mutexes[] = {
    SQLITE_MUTEX_STATIC_MASTER, SQLITE_MUTEX_STATIC_OPEN, SQLITE_MUTEX_STATIC_LRU, SQLITE_MUTEX_STATIC_PMEM,
    SQLITE_MUTEX_STATIC_PRNG,   SQLITE_MUTEX_STATIC_MEM,
};

static void with_static_mutexes(void (*act)(sqlite3_mutex *)) {
    for (unsigned i = 0; i < sizeof static_mutexes / sizeof *static_mutexes; i++) act(sqlite3_mutex_alloc(static_mutexes[i]));
}

/* Commands of a child, separated by " ;; ". */
static void child(char *lines) {
    char answer[4096];
    alarm(CHILD_LIMIT_S);
    children_count = 0;
    for (char *line = lines; line != NULL;) {
        char *next = strstr(line, " ;; ");
        if (next != NULL) {
            *next = 0;
            next += 4;
        }
        if (!run(line, answer)) {
            fprintf(stderr, "child: %s\n", answer);
            _exit(3);
        }
        line = next;
    }
    _exit(0);
}

static int start_child(char *lines, char *answer) {
    if (children_count == CHILDREN_MAX) return fail(answer, "fork", "too many children");
    sqlite3_initialize();
    with_static_mutexes(sqlite3_mutex_enter);
    pid_t pid = fork();
    with_static_mutexes(sqlite3_mutex_leave);
    if (pid < 0) return fail(answer, "fork", strerror(errno));
    if (pid == 0) child(lines);
    children[children_count++] = pid;
    snprintf(answer, 4096, "%d", (int)pid);
    return 1;
}

/* How they ended, in the order of their births: exit status, or minus the signal. */
static int reap(char *answer) {
    char *to = answer;
    *to = 0;
    for (int i = 0; i < children_count; i++) {
        int status = 0;
        if (waitpid(children[i], &status, 0) < 0) return fail(answer, "waitpid", strerror(errno));
        to += sprintf(to, "%s%d", i == 0 ? "" : ",", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
    }
    children_count = 0;
    return 1;
}

static int cycles(int count, char *answer) {
    for (int i = 0; i < count; i++) {
        sqlite3 *db = open_one(uri, answer);
        if (db == NULL || !sql(db, i % 10 == 0 ? "INSERT INTO t VALUES(7, randomblob(100))" : "SELECT count(*) FROM t", answer)) return 0;
        sqlite3_close(db);
    }
    return 1;
}

static int run(char *line, char *answer) {
    char *rest = strchr(line, ' ');
    answer[0] = 0;
    if (rest != NULL) *rest++ = 0;
    else rest = line + strlen(line);
    sqlite3 *newest = connections_count > 0 ? connections[connections_count - 1] : NULL;
    if (strcmp(line, "load") == 0) return load(answer);
    if (strcmp(line, "open") == 0) {
        if (connections_count == CONNECTIONS_MAX) return fail(answer, "open", "too many connections");
        sqlite3 *db = open_one(*rest != 0 ? rest : uri, answer);
        if (db == NULL) return 0;
        connections[connections_count++] = db;
        return 1;
    }
    if (strcmp(line, "sql") == 0) return sql(newest, rest, answer);
    if (strcmp(line, "close") == 0) {
        if (newest == NULL) return fail(answer, "close", "no connection");
        connections_count--;
        return sqlite3_close(newest) == SQLITE_OK || fail(answer, "close", sqlite3_errmsg(newest));
    }
    if (strcmp(line, "fork") == 0) return start_child(rest, answer);
    if (strcmp(line, "reap") == 0) return reap(answer);
    if (strcmp(line, "exec") == 0) {
        execl("/bin/sh", "sh", "-c", rest, (char *)NULL);
        return fail(answer, "exec", strerror(errno));
    }
    if (strcmp(line, "exit") == 0) exit(0);
    if (strcmp(line, "_exit") == 0) _exit(0);
    if (strcmp(line, "sleep") == 0) {
        sleep((unsigned)atoi(rest));
        return 1;
    }
    if (strcmp(line, "term") == 0) {
        raise(SIGTERM);
        return fail(answer, "term", "still alive");
    }
    if (strcmp(line, "kill") == 0) {
        raise(SIGKILL);
        return fail(answer, "kill", "still alive");
    }
    if (strcmp(line, "work") == 0) return work(rest, answer);
    if (strcmp(line, "state") == 0) {
        state(answer);
        return 1;
    }
    /* From here on: C. */
    if (strcmp(line, "late") == 0) {
        snprintf(late, sizeof late, "%s", rest);
        return 1;
    }
    if (strcmp(line, "threads") == 0) return start_threads(atoi(rest)) || fail(answer, "threads", "not all of them");
    if (strcmp(line, "join") == 0) {
        join_threads();
        snprintf(answer, 4096, "%d", (int)commits);
        return failures == 0 || fail(answer, "join", "a thread failed");
    }
    if (strcmp(line, "cycles") == 0) return cycles(atoi(rest), answer);
    if (strcmp(line, "close_streams") == 0) {
        for (int fd = 0; fd <= 2; fd++) close(fd);
        return 1;
    }
    if (strcmp(line, "threads_max") == 0) return refuse_threads(rest, answer);
    if (strcmp(line, "version") == 0) {
        snprintf(answer, 4096, "%s %d", sqlite3_libversion(), sqlite3_threadsafe());
        return 1;
    }
    return fail(answer, line, "unknown command");
}

/* Registered before the extension is loaded, hence called after whatever it does at the exit. */
static void at_exit(void) {
    char answer[4096];
    if (late[0] == 0 || connections_count == 0) return;
    sqlite3 *db = connections[--connections_count];
    if (!sql(db, late, answer) || sqlite3_close(db) != SQLITE_OK) {
        fprintf(stderr, "late: %s\n", answer);
        _exit(4);
    }
}

int main(int count, char **arguments) {
    static char line[65536], answer[4096];
    if (count != 3) return 2;
    extension = arguments[1];
    uri = arguments[2];
    /* Commands and answers go on when the standard streams are closed. */
    FILE *commands = fdopen(fcntl(0, F_DUPFD_CLOEXEC, 50), "r");
    answers = fdopen(fcntl(1, F_DUPFD_CLOEXEC, 50), "w");
    if (commands == NULL || answers == NULL) return 2;
    setlocale(LC_ALL, "C.UTF-8");
    umask(027);
    atexit(at_exit);
    while (fgets(line, sizeof line, commands) != NULL) {
        line[strcspn(line, "\n")] = 0;
        int done = run(line, answer);
        fprintf(answers, "%s%s\n", done ? "ok " : "", answer);
        fflush(answers);
    }
    return 0;
}
