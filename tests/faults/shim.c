/* Makes the n-th call of one system function fail, of those on files below a folder. Loaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { WRITE, FSYNC, RENAME, OPEN, READ };
static char folder[PATH_MAX];
static int armed = -1, left, code, fired;

void fault_arm(int call, int n, int error, const char *below) {
    snprintf(folder, sizeof folder, "%s", below);
    left = n, code = error, fired = 0, armed = call;
}

int fault_fired(void) { return fired; }

static int fails_at(int call, const char *path) {
    if (armed != call || strncmp(path, folder, strlen(folder)) != 0) return 0;
    if (__sync_sub_and_fetch(&left, 1) != 0) return 0;
    fired = 1;
    errno = code;
    return 1;
}

static int fails_on(int call, int fd) {
    char link[64], path[PATH_MAX];
    if (armed != call) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return fails_at(call, path);
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) { NEXT(write); return fails_on(WRITE, fd) ? -1 : next(fd, data, size); }
ssize_t read(int fd, void *data, size_t size) { NEXT(read); return fails_on(READ, fd) ? -1 : next(fd, data, size); }
int fsync(int fd) { NEXT(fsync); return fails_on(FSYNC, fd) ? -1 : next(fd); }
int rename(const char *from, const char *to) { NEXT(rename); return fails_at(RENAME, to) ? -1 : next(from, to); }

#define OPENING(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        NEXT(name); return fails_at(OPEN, path) ? -1 : next(path, flags, mode); \
    }
OPENING(open)
OPENING(open64)
