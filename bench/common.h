// What the small programs of the benchmark share: they stop with a sentence when anything is not as expected.
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static inline void stop(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static inline uint64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline long number(int count, char **arguments, int index, const char *usage) {
    char *end;
    if (index < count) {
        long value = strtol(arguments[index], &end, 10);
        if (*end == 0 && end != arguments[index] && value > 0) return value;
    }
    fprintf(stderr, "usage: %s %s\n", arguments[0], usage);
    exit(2);
}

static inline int compare_numbers(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static inline struct sockaddr_in loopback(long port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

// Listens on a port of the kernel's choice and prints it: the one who started us waits for that line.
static inline int listen_and_say(void) {
    struct sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) || listen(fd, 1024)) stop("listen");
    if (getsockname(fd, (struct sockaddr *)&address, &length)) stop("getsockname");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static inline void send_at_once(int fd) {
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)) stop("TCP_NODELAY");
}

static inline int connect_to(long port) {
    struct sockaddr_in address = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) stop("connect");
    return fd;
}

// One question of `size` bytes and its whole answer.
static inline void ask(int fd, char *bytes, size_t size) {
    if (send(fd, bytes, size, 0) != (ssize_t)size) stop("send");
    for (size_t have = 0; have < size;) {
        ssize_t got = recv(fd, bytes + have, size - have, 0);
        if (got <= 0) stop(got ? "recv" : "recv: early end of stream");
        have += (size_t)got;
    }
}

#endif
