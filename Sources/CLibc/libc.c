#include "libc.h"
#include "real.h"
#include <stdio.h>

__thread uint32_t libc_cached_tid __attribute__((tls_model("initial-exec")));

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
