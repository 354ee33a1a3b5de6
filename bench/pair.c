// Both ends of connections that are compared: a client and, run by it, a server of its own. Prints one line of JSON.
// usage: pair pingpong FAMILY WAIT GAP SIZE WARM MS    one connection, one message at a time, GAP microseconds between
//        pair bulk FAMILY SIZE WARM MS                 one connection, one direction, SIZE bytes at a time
//        pair many FAMILY COUNT SIZE MS                COUNT connections with a message of SIZE bytes under way on each
//        pair connect FAMILY COUNT                     COUNT times: connect, one question and its answer, close
// FAMILY: tcp, unix. WAIT: block, epoll. WARM, MS: milliseconds.
// PAIR_SERVER_PRELOAD: LD_PRELOAD for the server alone; the client's is the caller's business.
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/prctl.h>
#include <signal.h>
#include <stdbool.h>

#include "common.h"

static bool is_unix;
static pid_t server;
static clockid_t server_clock;
static struct sockaddr_storage address;
static socklen_t address_length;

// ---- The server

static void serve_one(int fd, char *bytes, size_t size) {
    for (ssize_t got; (got = recv(fd, bytes, size, 0)) > 0;)
        if (send(fd, bytes, (size_t)got, MSG_NOSIGNAL) != got) break;
    close(fd);
}

static void drain_one(int fd, char *bytes, size_t size) {
    uint64_t total = 0;
    for (ssize_t got; (got = recv(fd, bytes, size, 0)) > 0;) total += (uint64_t)got;
    if (send(fd, &total, sizeof total, MSG_NOSIGNAL) != sizeof total) stop("send");
    close(fd);
}

static void watch(int set, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event)) stop("epoll_ctl");
}

static int accept_one(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) stop("accept");
    if (!is_unix) send_at_once(fd);
    return fd;
}

static void serve_by_epoll(int listener, char *bytes, size_t size) {
    int set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[64];
    watch(set, listener);
    for (;;) {
        int count = epoll_wait(set, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                watch(set, accept_one(listener));
                continue;
            }
            ssize_t got = recv(fd, bytes, size, 0);
            if (got > 0 && send(fd, bytes, (size_t)got, MSG_NOSIGNAL) == got) continue;
            epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL);
            close(fd);
        }
    }
}

// Says where it listens on standard output; ends when killed.
static void serve(const char *how) {
    static char bytes[1 << 20];
    struct sockaddr_in four = loopback(0);
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    socklen_t length = sizeof address;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // A Unix socket's name is the kernel's choice, too.
    if (listener < 0 || bind(listener, is_unix ? (void *)&path : (void *)&four, is_unix ? sizeof(sa_family_t) : sizeof four)) stop("bind");
    if (listen(listener, 4096) || getsockname(listener, (struct sockaddr *)&address, &length)) stop("listen");
    if (write(STDOUT_FILENO, &length, sizeof length) != sizeof length || write(STDOUT_FILENO, &address, length) != (ssize_t)length) stop("write");
    if (strcmp(how, "epoll") == 0) serve_by_epoll(listener, bytes, sizeof bytes);
    for (;;) {
        int fd = accept_one(listener);
        if (strcmp(how, "sink") == 0) drain_one(fd, bytes, 256 << 10);
        else serve_one(fd, bytes, sizeof bytes);
    }
}

static void start_server(const char *how) {
    int ends[2];
    if (pipe(ends)) stop("pipe");
    server = fork();
    if (server < 0) stop("fork");
    if (server == 0) {
        const char *preload = getenv("PAIR_SERVER_PRELOAD");
        if (preload && *preload) setenv("LD_PRELOAD", preload, 1);
        else unsetenv("LD_PRELOAD");
        if (dup2(ends[1], STDOUT_FILENO) < 0) stop("dup2");
        close(ends[0]), close(ends[1]);
        execl("/proc/self/exe", "pair", "serve", is_unix ? "unix" : "tcp", how, NULL);
        stop("exec");
    }
    close(ends[1]);
    if (read(ends[0], &address_length, sizeof address_length) != sizeof address_length ||
        read(ends[0], &address, address_length) != (ssize_t)address_length) stop("the server did not start");
    close(ends[0]);
    if ((errno = clock_getcpuclockid(server, &server_clock))) stop("clock_getcpuclockid");
}

// ---- The client

static int open_one(void) {
    int fd = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, address_length)) stop("connect");
    if (!is_unix) send_at_once(fd);
    return fd;
}

// Seconds on a processor so far, both processes with all their threads.
static double processor_time(void) {
    struct timespec own, other;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own) || clock_gettime(server_clock, &other)) stop("clock_gettime");
    return (double)(own.tv_sec + other.tv_sec) + (double)(own.tv_nsec + other.tv_nsec) / 1e9;
}

// What the kernel's TCP has sent on `fd`; bytes_sent is the 26th 64-bit word of the structure (Linux 4.19).
static uint64_t sent_by_tcp(int fd) {
    uint64_t words[64] = {0};
    socklen_t length = sizeof words;
    if (is_unix || getsockopt(fd, IPPROTO_TCP, TCP_INFO, words, &length) || length < 26 * 8) return 0;
    return words[25];
}

// Whether both ends run with something preloaded: then the path is waited for, a second at most, before the clock starts.
static bool is_settled(int fd, uint64_t *seen, uint64_t begun) {
    const char *here = getenv("LD_PRELOAD"), *there = getenv("PAIR_SERVER_PRELOAD");
    if (!here || !*here || !there || !*there || nanoseconds() - begun > 1000000000) return true;
    uint64_t now = sent_by_tcp(fd);
    bool is_quiet = now == *seen;
    *seen = now;
    return is_quiet;
}

static void print_times(uint64_t *times, size_t count) {
    static const double parts[] = {1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100};
    qsort(times, count, sizeof *times, compare_numbers);
    printf("\"percentiles\": {");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t index = (size_t)((double)count * parts[i] / 100);
        printf("%s\"%g\": %.3f", i ? ", " : "", parts[i], (double)times[index < count ? index : count - 1] / 1e3);
    }
    printf("}, ");
}

static void finish(double messages, double bytes, double seconds, double processor, uint64_t on_tcp) {
    printf("\"messages\": %.0f, \"bytes\": %.0f, \"seconds\": %.6f, \"processor\": %.6f, \"tcp\": %lu}\n", messages, bytes, seconds, processor,
           (unsigned long)on_tcp);
    fflush(stdout);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
}

static void rest(long microseconds) {
    struct timespec gap = {microseconds / 1000000, microseconds % 1000000 * 1000};
    if (microseconds) nanosleep(&gap, NULL);
}

static void ask_by_epoll(int set, int fd, char *bytes, size_t size) {
    struct epoll_event event;
    if (send(fd, bytes, size, 0) != (ssize_t)size) stop("send");
    for (size_t have = 0; have < size;) {
        if (epoll_wait(set, &event, 1, -1) < 1) stop("epoll_wait");
        ssize_t got = recv(fd, bytes + have, size - have, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN) continue;
        if (got <= 0) stop("recv");
        have += (size_t)got;
    }
}

static void pingpong(bool by_epoll, long gap, size_t size, long warm, long milliseconds) {
    start_server(by_epoll ? "epoll" : "block");
    size_t room = (size_t)milliseconds * 10000 + 1, trips = 0;
    char *bytes = calloc(1, size);
    uint64_t *times = calloc(room, sizeof *times);
    if (!bytes || !times) stop("calloc");
    int fd = open_one(), set = epoll_create1(EPOLL_CLOEXEC);
    watch(set, fd);
    // A hundred trips at least: past the start of the connection, whatever its path will be.
    uint64_t first = nanoseconds(), end = first + (uint64_t)warm * 1000000, seen = 0;
    for (int i = 0; i < 100 || nanoseconds() < end || i % 10 || !is_settled(fd, &seen, first); i++) {
        by_epoll ? ask_by_epoll(set, fd, bytes, size) : ask(fd, bytes, size);
        if (i >= 100) rest(gap);
    }
    double processor = processor_time();
    uint64_t tcp = sent_by_tcp(fd), begun = nanoseconds(), now;
    end = begun + (uint64_t)milliseconds * 1000000;
    while ((now = nanoseconds()) < end && trips < room) {
        by_epoll ? ask_by_epoll(set, fd, bytes, size) : ask(fd, bytes, size);
        times[trips++] = nanoseconds() - now;
        rest(gap);
    }
    processor = processor_time() - processor;
    double seconds = (double)(nanoseconds() - begun) / 1e9;
    printf("{");
    print_times(times, trips);
    finish(2.0 * (double)trips, 2.0 * (double)(trips * size), seconds, processor, sent_by_tcp(fd) - tcp);
}

static void bulk(size_t size, long warm, long milliseconds) {
    start_server("sink");
    char *bytes = calloc(1, size);
    if (!bytes) stop("calloc");
    int fd = open_one();
    uint64_t first = nanoseconds(), end = first + (uint64_t)warm * 1000000, sent = 0, seen = 0, warmed, total, writes = 0;
    for (int i = 1; nanoseconds() < end || i % 64 || !is_settled(fd, &seen, first); i++) {
        if (send(fd, bytes, size, 0) != (ssize_t)size) stop("send");
        sent += size;
    }
    warmed = sent;
    double processor = processor_time();
    uint64_t tcp = sent_by_tcp(fd), begun = nanoseconds();
    for (end = begun + (uint64_t)milliseconds * 1000000; nanoseconds() < end; writes += 16) {
        for (int i = 0; i < 16; i++)
            if (send(fd, bytes, size, 0) != (ssize_t)size) stop("send");
        sent += 16 * size;
    }
    tcp = sent_by_tcp(fd) - tcp;
    // Until the other end has all of it: what is still under way was not moved.
    if (shutdown(fd, SHUT_WR) || recv(fd, &total, sizeof total, MSG_WAITALL) != sizeof total) stop("recv");
    if (total != sent) errno = 0, stop("bytes were lost");
    double seconds = (double)(nanoseconds() - begun) / 1e9;
    printf("{");
    finish((double)writes, (double)(sent - warmed), seconds, processor_time() - processor, tcp);
}

struct talk {
    uint64_t begun;
    size_t have;
};

static void many(long count, size_t size, long milliseconds) {
    enum { room = 4 << 20, rounds = 16 };
    start_server("epoll");
    int set = epoll_create1(EPOLL_CLOEXEC), *fds = calloc((size_t)count, sizeof *fds);
    int most = 0;
    char *bytes = calloc(1, size);
    uint64_t *times = calloc(room, sizeof *times);
    if (!bytes || !times || !fds) stop("calloc");
    for (long i = 0; i < count; i++) {
        fds[i] = open_one();
        if (fds[i] > most) most = fds[i];
    }
    struct talk *talks = calloc((size_t)most + 1, sizeof *talks);
    if (!talks) stop("calloc");
    // By turns, so that what is set up in the background for one goes on while the others are used.
    for (int round = 0; round < rounds; round++)
        for (long i = 0; i < count; i++) ask(fds[i], bytes, size);
    // The last one is looked at for all: its turn comes last.
    uint64_t first = nanoseconds(), seen = 0;
    while (!is_settled(fds[count - 1], &seen, first))
        for (long i = 0; i < count; i++) ask(fds[i], bytes, size);
    for (long i = 0; i < count; i++) watch(set, fds[i]);
    struct epoll_event events[64];
    size_t trips = 0, timed = 0;
    bool is_measured = false;
    uint64_t tcp = 0, now = nanoseconds(), begun = now, end = now + (uint64_t)milliseconds * 500000;
    double processor = 0;
    for (long i = 0; i < count; i++) {
        talks[fds[i]].begun = nanoseconds();
        if (send(fds[i], bytes, size, 0) != (ssize_t)size) stop("send");
    }
    for (;;) {
        int ready = epoll_wait(set, events, 64, -1);
        now = nanoseconds();
        if (now >= end) {
            if (is_measured) break;
            // The first part was the warm-up.
            is_measured = true;
            begun = now, end = now + (uint64_t)milliseconds * 1000000, trips = timed = 0;
            for (long i = 0; i < count; i++) tcp += sent_by_tcp(fds[i]);
            processor = processor_time();
        }
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            struct talk *talk = &talks[fd];
            ssize_t got = recv(fd, bytes, size - talk->have, MSG_DONTWAIT);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) stop("recv");
            if ((talk->have += (size_t)got) < size) continue;
            uint64_t then = nanoseconds();
            trips++;
            if (timed < room) times[timed++] = then - talk->begun;
            *talk = (struct talk){then, 0};
            if (send(fd, bytes, size, 0) != (ssize_t)size) stop("send");
        }
    }
    processor = processor_time() - processor;
    double seconds = (double)(nanoseconds() - begun) / 1e9;
    uint64_t after = 0;
    for (long i = 0; i < count; i++) after += sent_by_tcp(fds[i]);
    printf("{");
    if (timed) print_times(times, timed);
    finish(2.0 * (double)trips, 2.0 * (double)(trips * size), seconds, processor, after - tcp);
}

static void connections(long count) {
    start_server("block");
    char bytes[64] = {0};
    uint64_t begun = 0;
    double processor = 0;
    uint64_t *times = calloc((size_t)count, sizeof *times);
    if (!times) stop("calloc");
    for (long i = -count / 10; i < count; i++) {
        if (i == 0) processor = processor_time(), begun = nanoseconds();
        uint64_t now = nanoseconds();
        int fd = open_one();
        ask(fd, bytes, sizeof bytes);
        if (close(fd)) stop("close");
        if (i >= 0) times[i] = nanoseconds() - now;
    }
    processor = processor_time() - processor;
    double seconds = (double)(nanoseconds() - begun) / 1e9;
    printf("{");
    print_times(times, (size_t)count);
    finish((double)count, (double)count * 128, seconds, processor, 0);
}

int main(int count, char **arguments) {
    const char *usage = "pingpong FAMILY WAIT GAP SIZE WARM MS | bulk FAMILY SIZE WARM MS | many FAMILY COUNT SIZE MS | connect FAMILY COUNT";
    const char *mode = count > 2 ? arguments[1] : "";
    if (count > 2) is_unix = strcmp(arguments[2], "unix") == 0;
    if (strcmp(mode, "serve") == 0 && count > 3) {
        serve(arguments[3]);
    } else if (strcmp(mode, "pingpong") == 0 && count > 4) {
        long gap = strcmp(arguments[4], "0") == 0 ? 0 : number(count, arguments, 4, usage);
        pingpong(strcmp(arguments[3], "epoll") == 0, gap, (size_t)number(count, arguments, 5, usage), number(count, arguments, 6, usage),
                 number(count, arguments, 7, usage));
    } else if (strcmp(mode, "bulk") == 0) {
        bulk((size_t)number(count, arguments, 3, usage), number(count, arguments, 4, usage), number(count, arguments, 5, usage));
    } else if (strcmp(mode, "many") == 0) {
        many(number(count, arguments, 3, usage), (size_t)number(count, arguments, 4, usage), number(count, arguments, 5, usage));
    } else if (strcmp(mode, "connect") == 0) {
        connections(number(count, arguments, 3, usage));
    } else {
        number(0, arguments, 1, usage);
    }
    return 0;
}
