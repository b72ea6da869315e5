/* Makes the n-th call of one system function fail, of those on files below a folder; of malloc, the n-th request of so
   many bytes or more. Loaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum { WRITE, FSYNC, RENAME, OPEN, READ, MALLOC, KINDS };
static char folder[PATH_MAX];
static int armed = -1, left, code, fired, is_counting;
static long counts[KINDS];
static size_t least;

void fault_arm(int call, int n, int error, const char *below, size_t bytes) {
    snprintf(folder, sizeof folder, "%s", below);
    left = n, code = error, fired = 0, least = bytes, armed = call;
}

int fault_fired(void) { return fired; }

/* Counts the calls from now on, and returns how many there were of one kind. */
void fault_count(const char *below, size_t bytes) { fault_arm(-1, 0, 0, below, bytes), is_counting = 1; }
long fault_counted(int call) { return is_counting = 0, counts[call]; }

static int fails_at(int call, const char *path) {
    char whole[PATH_MAX];
    if (armed != call && !is_counting) return 0;
    if (path[0] != '/' && realpath(".", whole)) {
        size_t size = strlen(whole);
        snprintf(whole + size, sizeof whole - size, "/%s", path);
        path = whole;
    }
    if (strncmp(path, folder, strlen(folder)) != 0) return 0;
    if (is_counting) __sync_add_and_fetch(&counts[call], 1);
    if (armed != call) return 0;
    if (__sync_sub_and_fetch(&left, 1) != 0) return 0;
    fired = 1;
    errno = code;
    return 1;
}

static int fails_on(int call, int fd) {
    char link[64], path[PATH_MAX];
    if (armed != call && !is_counting) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return path[0] == '/' && fails_at(call, path); /* else a pipe or a socket */
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

static int fails_of(size_t size) {
    if (size < least) return 0;
    if (is_counting) __sync_add_and_fetch(&counts[MALLOC], 1);
    if (armed != MALLOC || __sync_sub_and_fetch(&left, 1) != 0) return 0;
    fired = 1;
    errno = ENOMEM;
    return 1;
}

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
void *malloc(size_t size) { return fails_of(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t number, size_t size) { return fails_of(number * size) ? NULL : __libc_calloc(number, size); }
void *realloc(void *old, size_t size) { return fails_of(size) ? NULL : __libc_realloc(old, size); }
void *memalign(size_t alignment, size_t size) { return fails_of(size) ? NULL : __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void **made, size_t alignment, size_t size) {
    void *found = memalign(alignment, size);
    if (!found) return ENOMEM;
    *made = found;
    return 0;
}
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    NEXT(mmap);
    return (flags & MAP_ANONYMOUS) && fails_of(size) ? MAP_FAILED : next(at, size, protection, flags, fd, offset);
}
