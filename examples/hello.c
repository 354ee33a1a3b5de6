// A client and a server, the plainest there are: nothing in here knows of the switch.
//
//     $ cc -o hello examples/hello.c
//     $ ./hello
//     1000 questions, 1000 right answers
//     TCP carried every byte
//     $ build/bin/sanswitch run -- ./hello
//     1000 questions, 1000 right answers
//     TCP carried the beginning, the companion the rest
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { questions = 1000, size = 64 };

static void stop(const char *what) {
    perror(what);
    exit(1);
}

static int read_all(int fd, char *bytes) {
    for (size_t have = 0; have < size;) {
        ssize_t got = read(fd, bytes + have, size - have);
        if (got <= 0) return 0;
        have += (size_t)got;
    }
    return 1;
}

// Gives every message back.
static void serve(int listener) {
    char bytes[size];
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) stop("accept");
    while (read_all(fd, bytes))
        if (write(fd, bytes, size) != size) stop("write");
    close(fd);
}

// The kernel's own count of what its TCP has sent: the 26th number of struct tcp_info (Linux 4.19).
static uint64_t sent_by_tcp(int fd) {
    uint64_t numbers[32] = {0};
    socklen_t length = sizeof numbers;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, numbers, &length)) stop("TCP_INFO");
    return numbers[25];
}

static void ask(struct sockaddr_in address) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), right = 0;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) stop("connect");
    for (int i = 0; i < questions; i++) {
        char question[size] = {0}, answer[size];
        snprintf(question, size, "question %d", i);
        if (write(fd, question, size) != size || !read_all(fd, answer)) stop("connection");
        right += memcmp(question, answer, size) == 0;
    }
    printf("%d questions, %d right answers\n", questions, right);
    puts(sent_by_tcp(fd) == questions * size ? "TCP carried every byte" : "TCP carried the beginning, the companion the rest");
    close(fd);
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1)) stop("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &length)) stop("getsockname");
    pid_t server = fork();
    if (server < 0) stop("fork");
    if (server == 0) {
        serve(listener);
        _exit(0);
    }
    ask(address);
    waitpid(server, NULL, 0);
    return 0;
}
