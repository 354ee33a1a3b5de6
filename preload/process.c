/* Process life. fork runs the handlers that the switch registers with pthread_atfork; _Fork runs none. vfork's child
 * shares its parent's memory and is recognised where it matters (Process.isOwn). */
#include "switch.h"

extern char **environ;

__attribute__((constructor)) static void start(void) { switch_start(); }
__attribute__((destructor)) static void stop(void) { switch_stop(); }

pid_t _Fork(void) {
    switch_fork_prepare();
    pid_t pid = real__Fork();
    if (pid == 0) switch_fork_child();
    return pid;
}

/* Only a failed exec returns. */
static int failed(int result) {
    int saved = errno;
    switch_exec_failed();
    errno = saved;
    return result;
}

int execve(const char *path, char *const arguments[], char *const environment[]) {
    switch_before_exec();
    return failed(real_execve(path, arguments, environment));
}
int execv(const char *path, char *const arguments[]) {
    switch_before_exec();
    return failed(real_execve(path, arguments, environ));
}
int execvpe(const char *file, char *const arguments[], char *const environment[]) {
    switch_before_exec();
    return failed(real_execvpe(file, arguments, environment));
}
int execvp(const char *file, char *const arguments[]) {
    switch_before_exec();
    return failed(real_execvpe(file, arguments, environ));
}
int fexecve(int fd, char *const arguments[], char *const environment[]) {
    switch_before_exec();
    return failed(real_fexecve(fd, arguments, environment));
}

/* The l forms: count, copy to an array on the stack, go on as the v forms do. */
#define COLLECT(first, list) \
    size_t count = 1; \
    va_start(list, first); \
    while (va_arg(list, const char *)) count++; \
    va_end(list); \
    char *arguments[count + 1]; \
    arguments[0] = (char *)first; \
    va_start(list, first); \
    for (size_t i = 1; i <= count; i++) arguments[i] = va_arg(list, char *);

int execl(const char *path, const char *first, ...) {
    va_list list;
    COLLECT(first, list)
    va_end(list);
    return execv(path, arguments);
}
int execlp(const char *file, const char *first, ...) {
    va_list list;
    COLLECT(first, list)
    va_end(list);
    return execvp(file, arguments);
}
int execle(const char *path, const char *first, ...) {
    va_list list;
    COLLECT(first, list)
    char *const *environment = va_arg(list, char *const *);
    va_end(list);
    return execve(path, arguments, environment);
}
