/* An echo server and its client in one static program: no preloaded library ever enters it, as with a Go program.
 *
 *     static_echo server PORT | static_echo client PORT BYTES      the client prints a checksum of what came back */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 16];

static int server(struct sockaddr_in *address) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)address, sizeof *address) || listen(listener, 16)) return 1;
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        ssize_t count;
        while ((count = read(connection, buffer, sizeof buffer)) > 0) {
            for (ssize_t done = 0; done < count;) {
                ssize_t part = write(connection, buffer + done, count - done);
                if (part < 0) return 1;
                done += part;
            }
        }
        close(connection);
    }
}

/* The byte at every offset is a function of the offset, so each one is checked where it arrives. */
static char byte_at(size_t offset) { return (char)((offset * 2654435761u) >> 13); }

static int client(struct sockaddr_in *address, size_t length) {
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, (struct sockaddr *)address, sizeof *address)) return 1;
    size_t sent = 0, received = 0;
    uint64_t sum = 0;
    while (received < length) {
        struct pollfd entry = {.fd = connection, .events = POLLIN | (sent < length ? POLLOUT : 0)};
        if (poll(&entry, 1, -1) < 0) return 1;
        if (entry.revents & POLLOUT) {
            size_t count = length - sent < sizeof buffer ? length - sent : sizeof buffer;
            for (size_t i = 0; i < count; i++) buffer[i] = byte_at(sent + i);
            ssize_t part = send(connection, buffer, count, MSG_DONTWAIT);
            if (part > 0) sent += part;
            if (sent == length) shutdown(connection, SHUT_WR);
        }
        if (entry.revents & POLLIN) {
            ssize_t part = recv(connection, buffer, sizeof buffer, 0);
            if (part <= 0) return 2;
            for (ssize_t i = 0; i < part; i++) {
                if (buffer[i] != byte_at(received + i)) return 3;
                sum = sum * 31 + (unsigned char)buffer[i];
            }
            received += part;
        }
    }
    if (recv(connection, buffer, 1, 0) != 0) return 4;
    printf("%llu\n", (unsigned long long)sum);
    return 0;
}

int main(int count, char **arguments) {
    if (count < 3) return 64;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[2]))};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    if (!strcmp(arguments[1], "server")) return server(&address);
    return count == 4 ? client(&address, strtoull(arguments[3], NULL, 10)) : 64;
}
