/* Making descriptors that the switch has no other interest in. Each entry is libc's call, and the same call once more when
 * all numbers were taken (EMFILE) and the switch could give some of its own back. switch_settle sees to the number. */
#include "switch.h"
#include <dirent.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#define ONCE_MORE(call, failed) ({ __typeof__(call) made_ = (call); made_ == failed && errno == EMFILE && switch_make_room() ? (call) : made_; })
#define WITH_ROOM(call) switch_settle(ONCE_MORE(call, -1))
#define PAIR_WITH_ROOM(call, ends) ({ int result_ = ONCE_MORE(call, -1); if (result_ == 0) switch_settle_pair(ends); result_; })
#define MODE(last) ({ va_list list; va_start(list, last); unsigned mode_ = va_arg(list, unsigned); va_end(list); mode_; })

int open(const char *path, int flags, ...) { unsigned mode = MODE(flags); return WITH_ROOM(real_open(path, flags, mode)); }
int open64(const char *path, int flags, ...) { unsigned mode = MODE(flags); return WITH_ROOM(real_open64(path, flags, mode)); }
int __open_2(const char *path, int flags) { return WITH_ROOM(real_open(path, flags, 0)); }
int __open64_2(const char *path, int flags) { return WITH_ROOM(real_open64(path, flags, 0)); }
int openat(int directory, const char *path, int flags, ...) {
    unsigned mode = MODE(flags);
    return WITH_ROOM(real_openat(directory, path, flags, mode));
}
int openat64(int directory, const char *path, int flags, ...) {
    unsigned mode = MODE(flags);
    return WITH_ROOM(real_openat64(directory, path, flags, mode));
}
int __openat_2(int directory, const char *path, int flags) { return WITH_ROOM(real_openat(directory, path, flags, 0)); }
int __openat64_2(int directory, const char *path, int flags) { return WITH_ROOM(real_openat64(directory, path, flags, 0)); }
int creat(const char *path, mode_t mode) { return WITH_ROOM(real_creat(path, mode)); }
int creat64(const char *path, mode_t mode) { return WITH_ROOM(real_creat64(path, mode)); }
FILE *fopen(const char *path, const char *mode) { return ONCE_MORE(real_fopen(path, mode), NULL); }
FILE *fopen64(const char *path, const char *mode) { return ONCE_MORE(real_fopen64(path, mode), NULL); }
DIR *opendir(const char *path) { return ONCE_MORE(real_opendir(path), NULL); }

int pipe(int ends[2]) { return PAIR_WITH_ROOM(real_pipe(ends), ends); }
int pipe2(int ends[2], int flags) { return PAIR_WITH_ROOM(real_pipe2(ends, flags), ends); }
int socketpair(int domain, int type, int protocol, int ends[2]) { return PAIR_WITH_ROOM(real_socketpair(domain, type, protocol, ends), ends); }
int epoll_create(int size) { return switch_epoll_created(WITH_ROOM(real_epoll_create(size))); }
int epoll_create1(int flags) { return switch_epoll_created(WITH_ROOM(real_epoll_create1(flags))); }
int eventfd(unsigned value, int flags) { return WITH_ROOM(real_eventfd(value, flags)); }
int timerfd_create(int clock, int flags) { return WITH_ROOM(real_timerfd_create(clock, flags)); }
int signalfd(int fd, const sigset_t *mask, int flags) { return WITH_ROOM(real_signalfd(fd, mask, flags)); }
int inotify_init1(int flags) { return WITH_ROOM(real_inotify_init1(flags)); }
int memfd_create(const char *name, unsigned flags) { return WITH_ROOM(real_memfd_create(name, flags)); }
