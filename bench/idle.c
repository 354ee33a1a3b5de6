// Many open connections: a server that echoes and a client that uses each a little, then both wait in epoll_wait.
// usage: idle serve           prints its port; serves until its standard input ends
//        idle ask PORT COUNT ROUNDS    prints "begin"; after a line of input opens and uses the connections, prints "ready",
//                             and waits until its standard input ends
#include <sys/epoll.h>

#include "common.h"

static char bytes[4096];

static void watch(int set, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event)) stop("epoll_ctl");
}

static void serve_connection(int set, int fd) {
    ssize_t got = recv(fd, bytes, sizeof bytes, 0);
    if (got > 0 && send(fd, bytes, (size_t)got, MSG_NOSIGNAL) == got) return;
    epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL);
    close(fd);
}

static void serve(void) {
    int listener = listen_and_say(), set = epoll_create1(EPOLL_CLOEXEC);
    watch(set, listener);
    watch(set, STDIN_FILENO);
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(set, &event, 1, -1) < 1) stop("epoll_wait");
        if (event.data.fd == STDIN_FILENO) return;
        if (event.data.fd != listener) {
            serve_connection(set, event.data.fd);
            continue;
        }
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) stop("accept");
        send_at_once(fd);
        watch(set, fd);
    }
}

static void say(const char *line) {
    puts(line);
    fflush(stdout);
}

static void hold(long port, long count, long rounds) {
    int *fds = calloc((size_t)count, sizeof *fds), set = epoll_create1(EPOLL_CLOEXEC);
    char line[16];
    struct epoll_event event;
    if (!fds) stop("calloc");
    say("begin");
    if (read(STDIN_FILENO, line, sizeof line) <= 0) return;
    for (long i = 0; i < count; i++) {
        fds[i] = connect_to(port);
        send_at_once(fds[i]);
        watch(set, fds[i]);
    }
    // By turns, so that what is set up in the background for one goes on while the others are used.
    for (long round = 0; round < rounds; round++)
        for (long i = 0; i < count; i++) ask(fds[i], bytes, 64);
    watch(set, STDIN_FILENO);
    say("ready");
    if (epoll_wait(set, &event, 1, -1) < 1) stop("epoll_wait");
    if (event.data.fd != STDIN_FILENO) fprintf(stderr, "idle: woken by a connection\n"), exit(1);
}

int main(int count, char **arguments) {
    const char *usage = "serve | ask PORT COUNT ROUNDS";
    if (count > 1 && strcmp(arguments[1], "serve") == 0) serve();
    else hold(number(count, arguments, 2, usage), number(count, arguments, 3, usage), number(count, arguments, 4, usage));
    return 0;
}
