// A blocking echo server, one connection after the other: the other end of pingpong and rate.
// usage: echo        prints its port; ends when killed
#include "common.h"

int main(void) {
    static char bytes[64 << 10];
    int listener = listen_and_say();
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) stop("accept");
        send_at_once(fd);
        for (ssize_t got; (got = recv(fd, bytes, sizeof bytes, 0)) > 0;)
            if (send(fd, bytes, (size_t)got, MSG_NOSIGNAL) != got) break;
        close(fd);
    }
}
