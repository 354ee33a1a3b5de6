/* stdio on sockets. libc's streams call the kernel inside libc, past every name defined here, so a descriptor that
 * becomes a stream returns to the kernel path first; dprintf is formatted here and written as any other bytes. */
#include "switch.h"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* Bytes that the companion holds and the program has not read yet go back to the front of the stream: glibc takes any number. */
static void push_back(FILE *stream, int fd) {
    size_t waiting = switch_unread(fd);
    if (waiting == 0) return;
    int saved = errno;
    unsigned char *bytes = malloc(waiting);
    ssize_t count = bytes ? switch_recv(fd, bytes, waiting, MSG_DONTWAIT) : 0;
    while (count > 0) ungetc(bytes[--count], stream);
    free(bytes);
    errno = saved;
}

FILE *fdopen(int fd, const char *mode) {
    static FILE *(*real)(int, const char *);
    if (!real) real = (FILE * (*)(int, const char *)) dlsym(RTLD_NEXT, "fdopen");
    switch_before_stdio(fd);
    FILE *stream = real(fd, mode);
    if (stream && (mode[0] == 'r' || strchr(mode, '+'))) push_back(stream, fd);
    return stream;
}

/* fclose closes the descriptor from inside libc. */
int fclose(FILE *stream) {
    static int (*real)(FILE *);
    if (!real) real = (int (*)(FILE *))dlsym(RTLD_NEXT, "fclose");
    if (stream) switch_closed_by_libc(fileno(stream));
    return real(stream);
}

static int print(int fd, const char *format, va_list list) {
    char *text = NULL;
    int length = vasprintf(&text, format, list), done = 0;
    while (done < length) {
        ssize_t n = switch_write(fd, text + done, (size_t)(length - done));
        if (n < 0) { length = -1; break; }
        done += (int)n;
    }
    int saved = errno;
    free(text);
    errno = saved;
    return length;
}

int vdprintf(int fd, const char *format, va_list list) { return print(fd, format, list); }
int dprintf(int fd, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int result = print(fd, format, list);
    va_end(list);
    return result;
}
int __vdprintf_chk(int fd, int flag, const char *format, va_list list) { (void)flag; return print(fd, format, list); }
int __dprintf_chk(int fd, int flag, const char *format, ...) {
    (void)flag;
    va_list list;
    va_start(list, format);
    int result = print(fd, format, list);
    va_end(list);
    return result;
}
