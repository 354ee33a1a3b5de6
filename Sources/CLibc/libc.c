#include "libc.h"
#include "real.h"
#include <stdio.h>
#include <sys/wait.h>

__thread uint32_t libc_cached_tid __attribute__((tls_model("initial-exec")));

__thread uint32_t libc_in_provider __attribute__((tls_model("initial-exec")));

int libc_start_thread(void *(*body)(void *), void *argument) {
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t thread;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = pthread_create(&thread, &attributes, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return result;
}

struct copying { int fd, first, result; };

/* Runs in a process of its own that shares memory and descriptors with the caller, which waits for it. */
static int copy_beyond(void *argument) {
    struct copying *copying = argument;
    struct rlimit limit;
    if (syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, NULL);
    }
    long copy = syscall(SYS_fcntl, copying->fd, F_DUPFD_CLOEXEC, (long)copying->first);
    copying->result = copy < 0 ? -errno : (int)copy;
    return 0;
}

/* Limits belong to a process, descriptors to all that share them: a process of a moment raises its own soft limit, never the
 * program's, which no other thread or child may see changed. No signal reaches it, none tells of its end (exit signal 0). */
int libc_copy_beyond(int fd, int first) {
    struct copying copying = {fd, first, -EAGAIN};
    uint64_t all = ~(uint64_t)0, before;
    _Alignas(16) char stack[8192];
    int saved = errno;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
    int pid = clone(copy_beyond, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_VFORK, &copying);
    if (pid > 0) syscall(SYS_wait4, pid, NULL, __WCLONE, NULL);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof all);
    errno = saved;
    return copying.result;
}

int libc_on_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    return pthread_atfork(prepare, parent, child);
}

void libc_log(int descriptor, const char *event, int fd, uint64_t first, uint64_t second) {
    char line[256];
    int saved = errno;
    int length = snprintf(line, sizeof line, "sanswitch[%d]: %s fd=%d %llu %llu\n", (int)getpid(), event, fd,
                          (unsigned long long)first, (unsigned long long)second);
    if (length > 0) real_write(descriptor, line, (size_t)length);
    errno = saved;
}

void libc_log_text(int descriptor, const char *event, const char *name, const char *text, int number) {
    char line[1024];
    int saved = errno;
    int length = snprintf(line, sizeof line, "sanswitch[%d]: %s %s: %s (%d)\n", (int)getpid(), event, name, text, number);
    if (length >= (int)sizeof line) length = sizeof line - 1;
    if (length > 0) real_write(descriptor, line, (size_t)length);
    errno = saved;
}
