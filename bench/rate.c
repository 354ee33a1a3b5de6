// Short connections, one after the other: connect, one question and its answer, close.
// usage: rate PORT COUNT        prints connections per second
#include "common.h"

int main(int count, char **arguments) {
    const char *usage = "PORT COUNT";
    long port = number(count, arguments, 1, usage), connections = number(count, arguments, 2, usage);
    char bytes[64] = {0};
    uint64_t begun = nanoseconds();
    for (long i = 0; i < connections; i++) {
        int fd = connect_to(port);
        ask(fd, bytes, sizeof bytes);
        if (close(fd)) stop("close");
    }
    printf("%.0f\n", (double)connections * 1e9 / (double)(nanoseconds() - begun));
    return 0;
}
