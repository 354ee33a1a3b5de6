// What stands between a program's write or send and the C library's own, on a descriptor that is no connection.
// Both are called in turn in one process, so that the kernel's share and the machine's mood cancel out; run without the
// library, where both are the same function, it shows how exact that is.
// usage: sendcost BATCHES    prints lines: what, ns by the name, ns by the C library's own, median difference
#include <dlfcn.h>
#include <fcntl.h>

#include "common.h"

enum { batch = 2000 };
static int fd;
static char bytes[64];
static ssize_t (*own_write)(int, const void *, size_t);
static ssize_t (*own_send)(int, const void *, size_t, int);

#define TIMED(name, call)                                       \
    static double name(void) {                                  \
        uint64_t begun = nanoseconds();                         \
        for (int i = 0; i < batch; i++) call;                   \
        return (double)(nanoseconds() - begun) / batch;         \
    }
#pragma GCC diagnostic ignored "-Wunused-result"
TIMED(write_by_name, write(fd, bytes, sizeof bytes))
TIMED(write_own, own_write(fd, bytes, sizeof bytes))
// Not a socket, so that the kernel returns at once: the less it does, the better a few nanoseconds can be told.
TIMED(send_by_name, send(fd, bytes, sizeof bytes, 0))
TIMED(send_own, own_send(fd, bytes, sizeof bytes, 0))

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median(double *values, long count) {
    qsort(values, (size_t)count, sizeof *values, compare);
    return values[count / 2];
}

static void measure(const char *what, double (*by_name)(void), double (*own)(void), long batches) {
    double *name = calloc((size_t)batches, sizeof *name), *libc = calloc((size_t)batches, sizeof *libc);
    double *difference = calloc((size_t)batches, sizeof *difference);
    if (!name || !libc || !difference) stop("calloc");
    by_name(), own();
    for (long i = 0; i < batches; i++) {
        if (i % 2) libc[i] = own(), name[i] = by_name();
        else name[i] = by_name(), libc[i] = own();
        difference[i] = name[i] - libc[i];
    }
    printf("%s %.2f %.2f %.2f\n", what, median(name, batches), median(libc, batches), median(difference, batches));
    free(name), free(libc), free(difference);
}

int main(int count, char **arguments) {
    long batches = number(count, arguments, 1, "BATCHES");
    void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    if (!libc || (fd = open("/dev/null", O_WRONLY)) < 0) stop("open");
    *(void **)&own_write = dlsym(libc, "write");
    *(void **)&own_send = dlsym(libc, "send");
    measure("write", write_by_name, write_own, batches);
    measure("send", send_by_name, send_own, batches);
    // From its first TCP socket on, a process has something to look up.
    int tcp = socket(AF_INET, SOCK_STREAM, 0);
    if (tcp < 0) stop("socket");
    measure("write-beside-tcp", write_by_name, write_own, batches);
    measure("send-beside-tcp", send_by_name, send_own, batches);
    close(tcp);
    return 0;
}
