/* The table of the real calls: what the next library in the search order (libc) defines under each name that preload/
 * takes over. Every entry starts as a stub that resolves itself on first use, so no caller checks anything, and a test
 * may put a function of its own in any entry (`real_calls`). */
#ifndef SANSWITCH_REAL_H
#define SANSWITCH_REAL_H
#include "libc.h"
#include <dirent.h>
#include <spawn.h>
#include <stdio.h>

/* X(result, name, parameters, arguments) */
#define REAL_CALLS(X) \
    X(int, socket, (int domain, int type, int protocol), (domain, type, protocol)) \
    X(int, bind, (int fd, const struct sockaddr *address, socklen_t length), (fd, address, length)) \
    X(int, listen, (int fd, int backlog), (fd, backlog)) \
    X(int, accept, (int fd, struct sockaddr *address, socklen_t *length), (fd, address, length)) \
    X(int, accept4, (int fd, struct sockaddr *address, socklen_t *length, int flags), (fd, address, length, flags)) \
    X(int, connect, (int fd, const struct sockaddr *address, socklen_t length), (fd, address, length)) \
    X(int, shutdown, (int fd, int how), (fd, how)) \
    X(int, close, (int fd), (fd)) \
    X(int, close_range, (unsigned first, unsigned last, int flags), (first, last, flags)) \
    X(ssize_t, send, (int fd, const void *buffer, size_t length, int flags), (fd, buffer, length, flags)) \
    X(ssize_t, sendto, (int fd, const void *buffer, size_t length, int flags, const struct sockaddr *address, socklen_t size), \
      (fd, buffer, length, flags, address, size)) \
    X(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags)) \
    X(int, sendmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags), (fd, messages, count, flags)) \
    X(ssize_t, write, (int fd, const void *buffer, size_t length), (fd, buffer, length)) \
    X(ssize_t, writev, (int fd, const struct iovec *vectors, int count), (fd, vectors, count)) \
    X(ssize_t, pwritev2, (int fd, const struct iovec *vectors, int count, off_t offset, int flags), \
      (fd, vectors, count, offset, flags)) \
    X(ssize_t, recv, (int fd, void *buffer, size_t length, int flags), (fd, buffer, length, flags)) \
    X(ssize_t, recvfrom, (int fd, void *buffer, size_t length, int flags, struct sockaddr *address, socklen_t *size), \
      (fd, buffer, length, flags, address, size)) \
    X(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags)) \
    X(int, recvmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout), \
      (fd, messages, count, flags, timeout)) \
    X(ssize_t, read, (int fd, void *buffer, size_t length), (fd, buffer, length)) \
    X(ssize_t, readv, (int fd, const struct iovec *vectors, int count), (fd, vectors, count)) \
    X(ssize_t, preadv2, (int fd, const struct iovec *vectors, int count, off_t offset, int flags), \
      (fd, vectors, count, offset, flags)) \
    X(ssize_t, sendfile, (int out, int in, off_t *offset, size_t length), (out, in, offset, length)) \
    X(ssize_t, splice, (int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length, unsigned flags), \
      (in, in_offset, out, out_offset, length, flags)) \
    X(int, getsockopt, (int fd, int level, int name, void *value, socklen_t *length), (fd, level, name, value, length)) \
    X(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t length), (fd, level, name, value, length)) \
    X(int, getsockname, (int fd, struct sockaddr *address, socklen_t *length), (fd, address, length)) \
    X(int, getpeername, (int fd, struct sockaddr *address, socklen_t *length), (fd, address, length)) \
    X(int, ioctl, (int fd, unsigned long request, void *argument), (fd, request, argument)) \
    X(int, fcntl, (int fd, int command, void *argument), (fd, command, argument)) \
    X(int, dup, (int fd), (fd)) \
    X(int, dup2, (int from, int to), (from, to)) \
    X(int, dup3, (int from, int to, int flags), (from, to, flags)) \
    X(int, poll, (struct pollfd *entries, nfds_t count, int timeout), (entries, count, timeout)) \
    X(int, ppoll, (struct pollfd *entries, nfds_t count, const struct timespec *timeout, const sigset_t *mask), \
      (entries, count, timeout, mask)) \
    X(int, select, (int count, fd_set *reads, fd_set *writes, fd_set *excepts, struct timeval *timeout), \
      (count, reads, writes, excepts, timeout)) \
    X(int, pselect, (int count, fd_set *reads, fd_set *writes, fd_set *excepts, const struct timespec *timeout, const sigset_t *mask), \
      (count, reads, writes, excepts, timeout, mask)) \
    X(int, epoll_create, (int size), (size)) \
    X(int, epoll_create1, (int flags), (flags)) \
    X(int, epoll_ctl, (int set, int operation, int fd, struct epoll_event *event), (set, operation, fd, event)) \
    X(int, epoll_wait, (int set, struct epoll_event *events, int count, int timeout), (set, events, count, timeout)) \
    X(int, epoll_pwait, (int set, struct epoll_event *events, int count, int timeout, const sigset_t *mask), \
      (set, events, count, timeout, mask)) \
    X(int, epoll_pwait2, (int set, struct epoll_event *events, int count, const struct timespec *timeout, const sigset_t *mask), \
      (set, events, count, timeout, mask)) \
    X(int, open, (const char *path, int flags, unsigned mode), (path, flags, mode)) \
    X(int, open64, (const char *path, int flags, unsigned mode), (path, flags, mode)) \
    X(int, openat, (int directory, const char *path, int flags, unsigned mode), (directory, path, flags, mode)) \
    X(int, openat64, (int directory, const char *path, int flags, unsigned mode), (directory, path, flags, mode)) \
    X(int, creat, (const char *path, mode_t mode), (path, mode)) \
    X(int, creat64, (const char *path, mode_t mode), (path, mode)) \
    X(FILE *, fopen, (const char *path, const char *mode), (path, mode)) \
    X(FILE *, fopen64, (const char *path, const char *mode), (path, mode)) \
    X(DIR *, opendir, (const char *path), (path)) \
    X(int, pipe, (int *ends), (ends)) \
    X(int, pipe2, (int *ends, int flags), (ends, flags)) \
    X(int, socketpair, (int domain, int type, int protocol, int *ends), (domain, type, protocol, ends)) \
    X(int, eventfd, (unsigned value, int flags), (value, flags)) \
    X(int, timerfd_create, (int clock, int flags), (clock, flags)) \
    X(int, signalfd, (int fd, const sigset_t *mask, int flags), (fd, mask, flags)) \
    X(int, inotify_init1, (int flags), (flags)) \
    X(int, memfd_create, (const char *name, unsigned flags), (name, flags)) \
    X(pid_t, _Fork, (void), ()) \
    X(int, execve, (const char *path, char *const arguments[], char *const environment[]), (path, arguments, environment)) \
    X(int, execvpe, (const char *file, char *const arguments[], char *const environment[]), (file, arguments, environment)) \
    X(int, fexecve, (int fd, char *const arguments[], char *const environment[]), (fd, arguments, environment)) \
    X(int, munmap, (void *address, size_t length), (address, length)) \
    X(int, mprotect, (void *address, size_t length, int protection), (address, length, protection)) \
    X(void *, mmap, (void *address, size_t length, int protection, int flags, int fd, off_t offset), \
      (address, length, protection, flags, fd, offset)) \
    X(void *, mremap, (void *address, size_t old_length, size_t length, int flags, void *target), \
      (address, old_length, length, flags, target)) \
    X(int, shmdt, (const void *address), (address))

#define REAL_CALLS_ENTRY(result, name, parameters, arguments) result(*name) parameters;
struct real_calls { REAL_CALLS(REAL_CALLS_ENTRY) };
#undef REAL_CALLS_ENTRY

extern struct real_calls real_calls;

/* real_NAME: the call as libc makes it: -1 and errno on failure. For calls made on the program's behalf. */
#define REAL_CALLS_FORWARD(result, name, parameters, arguments) \
    static inline result real_##name parameters { return real_calls.name arguments; }
REAL_CALLS(REAL_CALLS_FORWARD)
#undef REAL_CALLS_FORWARD

/* For calls made for the switch itself: the result, or -errno; the program's errno stays as it was. */
#define SYS(expression) \
    ({ int saved_ = errno; long result_ = (long)(expression); if (result_ < 0) { result_ = -errno; errno = saved_; } result_; })

static inline long sys_close(int fd) { return SYS(real_calls.close(fd)); }
static inline long sys_socket(int domain, int type, int protocol) { return SYS(real_calls.socket(domain, type, protocol)); }
static inline long sys_socketpair(int ends[2]) { return SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)); }
static inline long sys_bind(int fd, const void *address, socklen_t length) { return SYS(real_calls.bind(fd, (const struct sockaddr *)address, length)); }
static inline long sys_listen(int fd, int backlog) { return SYS(real_calls.listen(fd, backlog)); }
static inline long sys_accept4(int fd, int flags) { return SYS(real_calls.accept4(fd, NULL, NULL, flags)); }
static inline long sys_connect(int fd, const void *address, socklen_t length) { return SYS(real_calls.connect(fd, (const struct sockaddr *)address, length)); }
static inline long sys_send(int fd, const void *buffer, size_t length, int flags) { return SYS(real_calls.send(fd, buffer, length, flags)); }
static inline long sys_sendmsg(int fd, const struct msghdr *message, int flags) { return SYS(real_calls.sendmsg(fd, message, flags)); }
static inline long sys_recv(int fd, void *buffer, size_t length, int flags) { return SYS(real_calls.recv(fd, buffer, length, flags)); }
static inline long sys_recvmsg(int fd, struct msghdr *message, int flags) { return SYS(real_calls.recvmsg(fd, message, flags)); }
static inline long sys_getsockopt(int fd, int level, int name, void *value, socklen_t *length) { return SYS(real_calls.getsockopt(fd, level, name, value, length)); }
static inline long sys_setsockopt(int fd, int level, int name, const void *value, socklen_t length) { return SYS(real_calls.setsockopt(fd, level, name, value, length)); }
static inline long sys_getsockname(int fd, void *address, socklen_t *length) { return SYS(real_calls.getsockname(fd, (struct sockaddr *)address, length)); }
static inline long sys_getpeername(int fd, void *address, socklen_t *length) { return SYS(real_calls.getpeername(fd, (struct sockaddr *)address, length)); }
static inline long sys_shutdown(int fd, int how) { return SYS(real_calls.shutdown(fd, how)); }
static inline long sys_fcntl(int fd, int command, long argument) { return SYS(real_calls.fcntl(fd, command, (void *)argument)); }
static inline long sys_dup3(int from, int to, int flags) { return SYS(real_calls.dup3(from, to, flags)); }
static inline long sys_ioctl_int(int fd, unsigned long request, int *value) { return SYS(real_calls.ioctl(fd, request, value)); }
static inline long sys_poll(struct pollfd *entries, nfds_t count, int timeout) { return SYS(real_calls.poll(entries, count, timeout)); }
static inline long sys_ppoll(struct pollfd *entries, nfds_t count, const struct timespec *timeout, const sigset_t *mask) { return SYS(real_calls.ppoll(entries, count, timeout, mask)); }
static inline long sys_epoll_create1(int flags) { return SYS(real_calls.epoll_create1(flags)); }
static inline long sys_epoll_ctl(int set, int operation, int fd, struct epoll_event *event) { return SYS(real_calls.epoll_ctl(set, operation, fd, event)); }
static inline long sys_epoll_wait(int set, struct epoll_event *events, int count, int timeout) { return SYS(real_calls.epoll_wait(set, events, count, timeout)); }
static inline long sys_read(int fd, void *buffer, size_t length) { return SYS(real_calls.read(fd, buffer, length)); }
static inline long sys_write(int fd, const void *buffer, size_t length) { return SYS(real_calls.write(fd, buffer, length)); }
static inline long sys_pread(int fd, void *buffer, size_t length, off_t offset) { return SYS(syscall(SYS_pread64, fd, buffer, length, offset)); }
static inline long sys_open(const char *path, int flags) { return SYS(syscall(SYS_openat, AT_FDCWD, path, flags, 0666)); }
static inline long sys_readlink(const char *path, char *buffer, size_t length) { return SYS(readlink(path, buffer, length)); }
static inline long sys_memfd_create(const char *name, unsigned flags) { return SYS(syscall(SYS_memfd_create, name, flags)); }
static inline long sys_ftruncate(int fd, off_t length) { return SYS(ftruncate(fd, length)); }
static inline long sys_eventfd(void) { return SYS(real_calls.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)); }
static inline long sys_madvise(void *address, size_t length, int advice) { return SYS(madvise(address, length, advice)); }
static inline long sys_getpid(void) { return syscall(SYS_getpid); }
static inline long sys_futex(uint32_t *word, int operation, uint32_t value, const struct timespec *timeout) { return SYS(syscall(SYS_futex, word, operation, value, timeout, NULL, 0)); }
static inline bool sys_is_alive(int pid) { int saved = errno; bool alive = kill(pid, 0) == 0 || errno != ESRCH; errno = saved; return alive; }
static inline void sys_raise_sigpipe(void) {
    int saved = errno;
    syscall(SYS_tgkill, getpid(), libc_thread_id(), SIGPIPE);
    errno = saved;
}
/* Shared memory of one process family (forked children see it) or a mapping of `fd`; NULL when there is none to be had. */
static inline void *sys_map_near(void *wish, size_t length, int fd, int flags) {
    int saved = errno;
    void *address = real_calls.mmap(wish, length, PROT_READ | PROT_WRITE, flags, fd, 0);
    errno = saved;
    return address == MAP_FAILED ? NULL : address;
}
static inline void *sys_map(size_t length, int fd, int flags) { return sys_map_near(NULL, length, fd, flags); }
static inline void sys_unmap(void *address, size_t length) { int saved = errno; real_calls.munmap(address, length); errno = saved; }
#endif
