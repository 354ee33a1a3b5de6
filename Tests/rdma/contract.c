/* The contract of the provider interface, tried on the RDMA provider between two hosts. `contract LIBRARY [CASE]` runs each case as
 * two processes, a server on $LAB_IP2 and a client on $LAB_IP1, and prints one line for it. A case fails by a message and a
 * status; one that hangs is killed by its alarm. Words and rings in exposed memory are laid out as the engine does it. */
#include "sanswitch/provider.h"
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 7000, MESSAGE = 144, RING = 1 << 20, DATA = 8192, EXPOSED = DATA + RING, CLIENT_PORT = 45678 };
/* Stream offsets in the first page: what the peer has produced for me; how far it has taken what I sent. */
enum { PRODUCED = 0, CONSUMED = 128 };

static san_functions provider;
static san_direct_memory direct;
static const char *what = "";

#define CHECK(condition, ...) do { if (!(condition)) { printf("# %s: line %d: %s; ", what, __LINE__, #condition); printf(__VA_ARGS__); \
    printf("\n"); fflush(stdout); _exit(1); } } while (0)

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int place(int fd) {
    int placed = fcntl(fd, F_DUPFD_CLOEXEC, 500);
    if (placed >= 0) close(fd);
    return placed;
}
static void forget(int fd) { (void)fd; }

static void start(const char *library) {
    void *handle = dlopen(library, RTLD_NOW);
    CHECK(handle, "%s", dlerror());
    int (*startup)(uint32_t, const san_protocol *, const san_upcalls *, san_functions *, san_provider_info *);
    *(void **)&startup = dlsym(handle, "san_startup_ex");
    CHECK(startup, "no san_startup_ex");
    san_protocol tcp = {AF_INET, SOCK_STREAM, IPPROTO_TCP};
    san_upcalls upcalls = {.size = sizeof upcalls, .place_descriptor = place, .release_descriptor = forget};
    san_provider_info info = {0};
    CHECK(startup(SAN_ABI_VERSION + 9, &tcp, &upcalls, &provider, &info) < 0, "a version that there is not");
    CHECK(startup(SAN_ABI_VERSION, &tcp, &upcalls, &provider, &info) == 0, "start-up");
    CHECK(strcmp(info.name, "rdma") == 0, "%s", info.name);
    san_guid guid = SAN_DIRECT_MEMORY;
    CHECK(provider.ioctl(0, SAN_IOCTL_GET_EXTENSION, &guid, sizeof guid, &direct, sizeof direct) == 0 && direct.push, "extension");
}

static struct sockaddr_in address(const char *variable, int port) {
    struct sockaddr_in result = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const char *text = getenv(variable);
    CHECK(inet_pton(AF_INET, text ? text : variable, &result.sin_addr) == 1, "%s", variable);
    return result;
}

/* ---- Messages as the engine's (Sources/Wire/Message.swift) */

static void put_address(uint8_t *bytes, struct in_addr address) {
    memset(bytes, 0, 10);
    bytes[10] = bytes[11] = 0xff;
    memcpy(bytes + 12, &address, 4);
}

static void compose(uint8_t *message, int kind, const uint8_t *descriptor, size_t length) {
    uint32_t magic = 0x53575301;
    uint16_t ports[2] = {CLIENT_PORT, PORT};
    uint64_t ring = RING;
    memset(message, 0, MESSAGE);
    memcpy(message, &magic, 4);
    message[4] = 1;
    message[5] = (uint8_t)kind;
    message[6] = (uint8_t)length;
    memcpy(message + 8, ports, 4);
    put_address(message + 16, address("LAB_IP1", 0).sin_addr);
    put_address(message + 32, address("LAB_IP2", 0).sin_addr);
    memcpy(message + 64, &ring, 8);
    memcpy(message + 72, descriptor, length);
}

/* ---- A session: what the engine keeps of one */

struct session {
    san_socket socket;
    int event;
    uint8_t *inbox, *outbox;
    uint64_t sent, taken;
    bool is_armed;
};

static volatile uint64_t *word(uint8_t *memory, size_t offset) { return (volatile uint64_t *)(memory + offset); }
static uint64_t load(uint8_t *memory, size_t offset) { return __atomic_load_n(word(memory, offset), __ATOMIC_ACQUIRE); }

static bool readable(int fd, int milliseconds) {
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    return poll(&entry, 1, milliseconds) > 0;
}

static void say(struct session *session, int kind) {
    uint8_t descriptor[32], message[MESSAGE];
    size_t length = sizeof descriptor;
    void *memory;
    CHECK(direct.expose(session->socket, EXPOSED, &memory, descriptor, &length) == 0, "expose");
    session->inbox = memory;
    compose(message, kind, descriptor, length);
    CHECK(provider.send(session->socket, message, MESSAGE) == MESSAGE, "send");
}

static ssize_t hear(struct session *session, int seconds) {
    uint8_t message[256];
    double end = now() + seconds;
    ssize_t count;
    while ((count = provider.recv(session->socket, message, sizeof message)) == -EAGAIN && now() < end)
        readable(session->event, 100);
    if (count == MESSAGE) {
        void *memory;
        CHECK(direct.map(session->socket, message + 72, message[6], EXPOSED + 1, &memory) < 0, "more than there is was mapped");
        int mapped = direct.map(session->socket, message + 72, message[6], EXPOSED, &memory);
        CHECK(mapped == 0, "%d", mapped);
        session->outbox = memory;
    }
    return count;
}

static san_socket listening(void) {
    san_socket listener;
    struct sockaddr_in here = address("LAB_IP2", PORT);
    CHECK(provider.socket(NULL, &listener) == 0, "socket");
    CHECK(provider.bind(listener, (void *)&here, sizeof here) == 0, "bind");
    CHECK(provider.listen(listener, 16) == 0, "listen");
    return listener;
}

static san_socket accepted(san_socket listener) {
    san_socket socket;
    double end = now() + 20;
    int result;
    while ((result = provider.accept(listener, &socket)) == -EAGAIN && now() < end)
        readable(provider.event_descriptor(listener), 100);
    CHECK(result == 0, "%d", result);
    return socket;
}

static struct session serve(void) {
    struct session session = {.socket = accepted(listening())};
    session.event = provider.event_descriptor(session.socket);
    ssize_t count = hear(&session, 10);
    CHECK(count == MESSAGE, "%zd", count);
    san_peer peer;
    CHECK(provider.peer(session.socket, &peer) == -EOPNOTSUPP, "peer");
    say(&session, 4);
    return session;
}

/* Returns at once; `result` gets what the first recv that is not -EAGAIN said. */
static struct session call(const char *to, ssize_t *result) {
    struct session session = {0};
    struct sockaddr_in server = address(to, PORT);
    double begin = now();
    CHECK(provider.socket(NULL, &session.socket) == 0, "socket");
    int connected = provider.connect(session.socket, (void *)&server, sizeof server);
    CHECK(connected == 0, "%d", connected);
    say(&session, 1);
    /* On a busy emulator; the way to a peer takes its time limits, seconds, when there is none. */
    CHECK(now() - begin < 1.5, "connecting took %.3f s", now() - begin);
    session.event = provider.event_descriptor(session.socket);
    *result = hear(&session, 20);
    return session;
}

static struct session reach(void) {
    /* The server may not listen yet. */
    for (double end = now() + 20; now() < end; usleep(50000)) {
        ssize_t result;
        struct session session = call("LAB_IP2", &result);
        if (result == MESSAGE) return session;
        CHECK(result == -ECONNREFUSED, "%zd", result);
        CHECK(provider.close(session.socket) == 0, "close");
    }
    CHECK(false, "no server");
    abort();
}

static void wait_for(struct session *session, bool blocking) {
    int result;
    if (blocking) {
        result = direct.wait_doorbell(session->socket);
        CHECK(result == 0, "%d", result);
    } else {
        /* Says that it is about to sleep; the caller looks once more, and comes again. */
        session->is_armed = !session->is_armed;
        if (session->is_armed) {
            result = direct.push(session->socket, 0, 0);
            CHECK(result == 0 || result == -EPIPE, "%d", result);
            return;
        }
        CHECK(readable(session->event, 20000), "no doorbell in 20 s");
    }
    result = direct.silence_doorbell(session->socket);
    CHECK(result >= 0, "%d", result);
}

static uint8_t pattern(uint64_t offset, int salt) { return (uint8_t)((offset * 2654435761u >> 13) + offset + (uint64_t)salt * 97); }

/* Puts up to `count` bytes of the pattern into the peer's ring; how many. */
static size_t produce(struct session *session, size_t count, int salt) {
    uint64_t room = RING - (session->sent - load(session->inbox, CONSUMED));
    size_t at = session->sent % RING, run;
    if (count > room) count = room;
    if (count == 0) return 0;
    for (size_t i = 0; i < count; i++) session->outbox[DATA + (at + i) % RING] = pattern(session->sent + i, salt);
    run = count < RING - at ? count : RING - at;
    CHECK(direct.push(session->socket, DATA + at, run) == 0, "push");
    if (run < count) CHECK(direct.push(session->socket, DATA, count - run) == 0, "push");
    session->sent += count;
    *word(session->outbox, PRODUCED) = session->sent;
    CHECK(direct.push(session->socket, PRODUCED, 8) == 0, "push");
    return count;
}

/* Takes and compares what is there; how much. */
static size_t consume(struct session *session, int salt) {
    uint64_t there = load(session->inbox, PRODUCED);
    CHECK(there - session->taken <= RING, "%llu beyond %llu", (unsigned long long)there, (unsigned long long)session->taken);
    size_t count = there - session->taken;
    for (; session->taken < there; session->taken++) {
        uint8_t byte = session->inbox[DATA + session->taken % RING];
        CHECK(byte == pattern(session->taken, salt), "byte %llu of %llu", (unsigned long long)session->taken, (unsigned long long)there);
    }
    return count;
}

static void acknowledge(struct session *session) {
    *word(session->outbox, CONSUMED) = session->taken;
    int result = direct.push(session->socket, CONSUMED, 8);
    CHECK(result == 0 || result == -EPIPE, "%d", result);
}

static void until_gone(struct session *session, int seconds) {
    double end = now() + seconds;
    int result;
    while ((result = direct.silence_doorbell(session->socket)) >= 0 && now() < end) readable(session->event, 100);
    CHECK(result == -EPIPE, "%d", result);
    CHECK(readable(session->event, 0), "the end is not readable");
}

/* Both directions at once, in pieces of every size, over a ring that goes round many times. */
static void exchange(struct session *session, uint64_t total, int mine, int theirs, size_t most) {
    unsigned seed = (unsigned)mine;
    while (session->sent < total || session->taken < total || load(session->inbox, CONSUMED) < total) {
        size_t moved = 0;
        if (session->sent < total) {
            size_t count = 1 + (size_t)rand_r(&seed) % (rand_r(&seed) % 4 ? 300 : most);
            if (count > total - session->sent) count = total - session->sent;
            moved += produce(session, count, mine);
        }
        size_t got = consume(session, theirs);
        if (got) acknowledge(session);
        if (moved + got == 0) wait_for(session, mine == 1);
    }
}

/* ---- The cases */

static void finish_pair(struct session *session, bool first) {
    if (first) CHECK(provider.close(session->socket) == 0, "close");
    else until_gone(session, 10);
    provider.cleanup();
}

static void stream_server(void) { struct session s = serve(); exchange(&s, 6 << 20, 2, 1, 200000); finish_pair(&s, false); }
static void stream_client(void) { struct session s = reach(); exchange(&s, 6 << 20, 1, 2, 200000); finish_pair(&s, true); }

static void pingpong(struct session *session, bool first) {
    for (int round = 0; round < 400; round++) {
        if (first || round > 0) CHECK(produce(session, 64, first) == 64, "no room");
        while (session->taken < session->sent + (first ? 0 : 64)) {
            if (consume(session, !first) == 0) wait_for(session, round % 2);
            else acknowledge(session);
        }
        if (!first && round == 399) produce(session, 64, first);
    }
}
static void pingpong_server(void) { struct session s = serve(); pingpong(&s, false); until_gone(&s, 10); }
static void pingpong_client(void) { struct session s = reach(); pingpong(&s, true); finish_pair(&s, true); }

/* A doorbell is heard until it is silenced, once for any number of pushes, and again after that. */
static void doorbell_server(void) {
    struct session s = serve();
    for (uint64_t round = 1; round <= 20; round++) {
        while (load(s.inbox, PRODUCED) < round * 3) usleep(1000);
        CHECK(readable(s.event, 5000), "round %d", (int)round);
        CHECK(readable(s.event, 0), "not level");
        CHECK(direct.silence_doorbell(s.socket) == 1, "silence");
        usleep(20000);
        while (direct.silence_doorbell(s.socket) == 1) usleep(20000);
        CHECK(!readable(s.event, 0), "readable after it was silenced");
        s.taken = round;
        acknowledge(&s);
    }
    until_gone(&s, 10);
}
static void doorbell_client(void) {
    struct session s = reach();
    for (uint64_t round = 1; round <= 20; round++) {
        for (int i = 0; i < 3; i++) CHECK(produce(&s, 1, 0) == 1, "room");
        while (load(s.inbox, CONSUMED) < round) wait_for(&s, false);
    }
    finish_pair(&s, true);
}

/* What was pushed before close arrives, all of it, and before the end. */
static void close_server(void) {
    struct session s = serve();
    until_gone(&s, 20);
    CHECK(consume(&s, 5) == 700000, "%llu", (unsigned long long)s.taken);
    CHECK(direct.push(s.socket, PRODUCED, 8) == -EPIPE, "push after the end");
    CHECK(provider.recv(s.socket, (char[256]){0}, 256) == 0, "recv after the end");
    provider.close(s.socket);
}
static void close_client(void) {
    struct session s = reach();
    while (s.sent < 700000) {
        size_t count = s.sent % 3 ? 50000 : 400;
        produce(&s, count < 700000 - s.sent ? count : 700000 - s.sent, 5);
    }
    CHECK(direct.unmap(s.inbox, EXPOSED) == 0 && direct.unmap(s.outbox, EXPOSED) == 0, "unmap");
    CHECK(provider.close(s.socket) == 0, "close");
    provider.cleanup();
}

/* An end that rings no more has still everything it pushed arrive first; the other direction goes on. */
static void finish_server(void) {
    struct session s = serve();
    until_gone(&s, 20);
    CHECK(consume(&s, 5) == 300000, "%llu", (unsigned long long)s.taken);
    CHECK(produce(&s, 5000, 6) == 5000, "room");
    usleep(500000);
    CHECK(provider.close(s.socket) == 0, "close");
    provider.cleanup();
}
static void finish_client(void) {
    struct session s = reach();
    CHECK(produce(&s, 300000, 5) == 300000, "room");
    CHECK(direct.finish(s.socket) == 0, "finish");
    while (s.taken < 5000) if (consume(&s, 6) == 0) wait_for(&s, false);
    until_gone(&s, 20);
}

static void crash_server(void) { struct session s = serve(); until_gone(&s, 10); provider.close(s.socket); }
static void crash_client(void) { struct session s = reach(); produce(&s, 100, 1); kill(getpid(), SIGKILL); }

static void refused_client(void) {
    ssize_t result;
    double begin = now();
    struct session s = call("LAB_IP2", &result);
    CHECK(result == -ECONNREFUSED, "%zd", result);
    CHECK(now() - begin < 3, "%.1f s", now() - begin);
    CHECK(readable(s.event, 0), "the refusal is not readable");
    CHECK(provider.close(s.socket) == 0, "close");
}

static void unreachable_client(void) {
    ssize_t result;
    double begin = now();
    struct session s = call("10.0.0.77", &result);
    CHECK(result < 0 && result != -EAGAIN, "%zd", result);
    CHECK(now() - begin < 6, "%.1f s", now() - begin);
    CHECK(provider.close(s.socket) == 0, "close");
}

/* ---- Peers of librdmacm alone, that do not keep to the protocol */

static struct rdma_cm_id *raw(struct rdma_event_channel **channel) {
    struct rdma_cm_id *id;
    *channel = rdma_create_event_channel();
    CHECK(*channel && rdma_create_id(*channel, &id, NULL, RDMA_PS_TCP) == 0, "%d", errno);
    return id;
}

static int raw_event(struct rdma_event_channel *channel) {
    struct rdma_cm_event *event;
    CHECK(rdma_get_cm_event(channel, &event) == 0, "%d", errno);
    int kind = event->event;
    rdma_ack_cm_event(event);
    return kind;
}

/* Listens and never answers: the caller gives up by itself. */
static void mute_server(void) {
    struct rdma_event_channel *channel;
    struct rdma_cm_id *id = raw(&channel);
    struct sockaddr_in here = address("LAB_IP2", PORT);
    CHECK(rdma_bind_addr(id, (void *)&here) == 0 && rdma_listen(id, 4) == 0, "%d", errno);
    while (raw_event(channel) != RDMA_CM_EVENT_CONNECT_REQUEST) {}
    sleep(6);
}
static void mute_client(void) {
    usleep(500000);
    for (double end = now() + 10; now() < end; usleep(50000)) {
        ssize_t result;
        double begin = now();
        struct session s = call("LAB_IP2", &result);
        CHECK(provider.close(s.socket) == 0, "close");
        if (result == -ECONNREFUSED) continue;
        CHECK(result == -ETIMEDOUT, "%zd", result);
        CHECK(now() - begin < 5, "%.1f s", now() - begin);
        return;
    }
    CHECK(false, "always refused");
}

/* Connects with private data of its own making; what came of it. */
static int raw_connect(const void *data, uint8_t length, struct rdma_cm_id **out, struct rdma_event_channel **channel) {
    struct rdma_cm_id *id = raw(channel);
    struct sockaddr_in here = address("LAB_IP1", 0), there = address("LAB_IP2", PORT);
    CHECK(rdma_resolve_addr(id, (void *)&here, (void *)&there, 1000) == 0, "%d", errno);
    CHECK(raw_event(*channel) == RDMA_CM_EVENT_ADDR_RESOLVED, "address");
    CHECK(rdma_resolve_route(id, 1000) == 0 && raw_event(*channel) == RDMA_CM_EVENT_ROUTE_RESOLVED, "route");
    struct ibv_qp_init_attr queues = {.qp_type = IBV_QPT_RC, .cap = {4, 4, 1, 1, 64}};
    CHECK(rdma_create_qp(id, NULL, &queues) == 0, "%d", errno);
    struct rdma_conn_param parameters = {.private_data = data, .private_data_len = length, .retry_count = 6, .rnr_retry_count = 7};
    CHECK(rdma_connect(id, &parameters) == 0, "%d", errno);
    *out = id;
    return raw_event(*channel);
}

static void private_data(uint8_t *data, const char *client) {
    uint32_t magic = 0x53575302;
    uint16_t ports[2] = {CLIENT_PORT, PORT};
    memset(data, 0, 56);
    memcpy(data, &magic, 4);
    data[4] = 1;
    memcpy(data + 8, ports, 4);
    put_address(data + 12, address(client, 0).sin_addr);
    put_address(data + 28, address("LAB_IP2", 0).sin_addr);
}

/* Requests without a tuple, with a wrong one, with another host's address: refused; none reaches `accept`. Then half a connection,
 * which says nothing, and one that says nonsense. */
static void malformed_server(void) {
    san_socket listener = listening(), silent = accepted(listener), wrong = accepted(listener);
    uint8_t message[256];
    double end = now() + 10;
    ssize_t result;
    CHECK(provider.recv(silent, message, sizeof message) == -EAGAIN, "a message from nowhere");
    while ((result = provider.recv(wrong, message, sizeof message)) == -EAGAIN && now() < end) usleep(10000);
    CHECK(result == -EPROTO, "%zd", result);
    provider.close(wrong);
    CHECK(provider.recv(silent, message, sizeof message) == -EAGAIN, "a message from nowhere");
    CHECK(provider.close(silent) == 0 && provider.close(listener) == 0, "close");
    provider.cleanup();
}
static void malformed_client(void) {
    struct rdma_event_channel *channel, *second;
    struct rdma_cm_id *id, *other;
    uint8_t data[56];
    int result;
    usleep(500000);
    double end = now() + 10;
    private_data(data, "LAB_IP1");
    while ((result = raw_connect(data, 56, &id, &channel)) != RDMA_CM_EVENT_ESTABLISHED && now() < end) usleep(50000);
    CHECK(result == RDMA_CM_EVENT_ESTABLISHED, "%d", result);
    struct rdma_cm_id *refused;
    struct rdma_event_channel *third;
    CHECK(raw_connect(NULL, 0, &refused, &third) == RDMA_CM_EVENT_REJECTED, "without a tuple");
    data[0] ^= 1;
    CHECK(raw_connect(data, 56, &refused, &third) == RDMA_CM_EVENT_REJECTED, "wrong magic");
    private_data(data, "10.0.0.9");
    CHECK(raw_connect(data, 56, &refused, &third) == RDMA_CM_EVENT_REJECTED, "another's address");
    private_data(data, "LAB_IP1");
    CHECK(raw_connect(data, 56, &other, &second) == RDMA_CM_EVENT_ESTABLISHED, "second");
    struct ibv_mr *region = ibv_reg_mr(other->pd, data, sizeof data, IBV_ACCESS_LOCAL_WRITE);
    struct ibv_sge piece = {(uintptr_t)data, sizeof data, region->lkey};
    struct ibv_send_wr request = {.sg_list = &piece, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED}, *bad;
    CHECK(ibv_post_send(other->qp, &request, &bad) == 0, "post");
    CHECK(raw_event(second) == RDMA_CM_EVENT_DISCONNECTED, "nonsense is sent away");
    CHECK(raw_event(channel) == RDMA_CM_EVENT_DISCONNECTED, "closed");
}

/* A child of fork may look at what has come and ask; it reaches no queue, and its parent goes on. */
static void fork_client(void) {
    struct session s = reach();
    CHECK(produce(&s, 1000, 1) == 1000, "room");
    while (load(s.inbox, CONSUMED) < 1000) wait_for(&s, false);
    pid_t child = fork();
    if (child == 0) {
        CHECK(load(s.inbox, CONSUMED) == 1000, "the child sees other memory");
        CHECK(direct.push(s.socket, PRODUCED, 8) == -EPIPE, "the child pushed");
        san_socket fresh;
        CHECK(provider.socket(NULL, &fresh) == -EOPNOTSUPP, "the child opened a companion");
        CHECK(provider.close(s.socket) == 0, "close");
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0, "child %d", status);
    exchange(&s, 2 << 20, 1, 2, 100000);
    finish_pair(&s, true);
}
static void fork_server(void) {
    struct session s = serve();
    exchange(&s, 2 << 20, 2, 1, 100000);
    finish_pair(&s, false);
}

/* A handler without SA_RESTART ends the wait; one with it does not; `interrupt` ends it for good. */
static volatile sig_atomic_t signals;
static void on_signal(int number) { (void)number; signals++; }
static void signal_server(void) { struct session s = serve(); until_gone(&s, 20); }
static void signal_client(void) {
    struct session s = reach();
    struct sigaction action = {.sa_handler = on_signal};
    while (direct.silence_doorbell(s.socket) == 1) usleep(1000);
    sigaction(SIGUSR1, &action, NULL);
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR2, &action, NULL);
    pid_t me = getpid(), child = fork();
    if (child == 0) {
        usleep(300000), kill(me, SIGUSR2), usleep(300000), kill(me, SIGUSR1);
        _exit(0);
    }
    int result = direct.wait_doorbell(s.socket);
    CHECK(result == -EINTR && signals == 2, "%d after %d signals", result, (int)signals);
    waitpid(child, NULL, 0);
    direct.interrupt(s.socket);
    CHECK(direct.wait_doorbell(s.socket) == 0, "wait");
    finish_pair(&s, true);
}

/* Without memory to lock the session fails by name; the next one, with memory, does not. */
static void memlock_server(void) {
    san_socket listener = listening();
    struct session s = {.socket = accepted(listener)};
    CHECK(provider.close(s.socket) == 0, "close");
}
static void memlock_client(void) {
    struct rlimit limit = {256 << 10, 256 << 10};
    CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && setgid(65534) == 0 && setuid(65534) == 0, "%d", errno);
    for (double end = now() + 15; now() < end; usleep(50000)) {
        ssize_t result;
        struct session s = call("LAB_IP2", &result);
        CHECK(provider.close(s.socket) == 0, "close");
        if (result == -ECONNREFUSED) continue;
        CHECK(result == -ENOMEM, "%zd", result);
        return;
    }
    CHECK(false, "always refused");
}

/* The link goes down under a session: transfers fail in the end, which both ends see; and nothing new begins. (A soft device that is
 * taken away only waits until nobody has it open.) */
static void push_until_gone(struct session *session, double seconds) {
    for (double end = now() + seconds; now() < end && direct.push(session->socket, CONSUMED, 8) == 0;) usleep(100000);
    until_gone(session, 5);
    CHECK(direct.push(session->socket, PRODUCED, 8) == -EPIPE, "push");
    CHECK(provider.close(session->socket) == 0, "close");
}
static void lost_server(void) { struct session s = serve(); push_until_gone(&s, 60); }
static void lost_client(void) {
    struct session s = reach();
    CHECK(produce(&s, 1000, 1) == 1000, "room");
    CHECK(system("ip link set $LAB_NET1 down") == 0, "ip link");
    push_until_gone(&s, 60);
    san_socket fresh;
    struct sockaddr_in there = address("LAB_IP2", PORT);
    CHECK(provider.socket(NULL, &fresh) == 0, "socket");
    CHECK(provider.connect(fresh, (void *)&there, sizeof there) == -ENODEV, "connect without a port");
    CHECK(provider.close(fresh) == 0, "close");
    CHECK(provider.ioctl(0, SAN_IOCTL_ADDRESS_LIST, NULL, 0, NULL, 0) == 0, "addresses of ports that are down");
}

static void addresses_client(void) {
    uint8_t list[4096];
    int length = provider.ioctl(0, SAN_IOCTL_ADDRESS_LIST, NULL, 0, list, sizeof list), found = 0;
    CHECK(length > 0 && length % 16 == 0, "%d", length);
    for (int at = 0; at < length; at += 16) {
        uint8_t one[16], two[16];
        put_address(one, address("LAB_IP1", 0).sin_addr);
        put_address(two, address("LAB_IP2", 0).sin_addr);
        found += memcmp(list + at, one, 16) == 0 || memcmp(list + at, two, 16) == 0;
    }
    CHECK(found == 2, "%d of both hosts' addresses", found);
    CHECK(provider.ioctl(0, SAN_IOCTL_ADDRESS_LIST, NULL, 0, list, 1) == length, "the length that is needed");
}

static const struct test { const char *name; void (*server)(void), (*client)(void); } tests[] = {
    {"addresses", NULL, addresses_client}, {"stream", stream_server, stream_client}, {"pingpong", pingpong_server, pingpong_client},
    {"doorbell", doorbell_server, doorbell_client}, {"close", close_server, close_client}, {"finish", finish_server, finish_client},
    {"crash", crash_server, crash_client},
    {"refused", NULL, refused_client}, {"unreachable", NULL, unreachable_client}, {"mute", mute_server, mute_client},
    {"malformed", malformed_server, malformed_client}, {"fork", fork_server, fork_client}, {"signal", signal_server, signal_client},
    {"memlock", memlock_server, memlock_client}, {"lost", lost_server, lost_client},
};

static pid_t launch(const struct test *test, void (*part)(void), const char *library, const char *role) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    char name[64];
    snprintf(name, sizeof name, "%s %s", test->name, role);
    what = name;
    alarm(80);
    start(library);
    part();
    fflush(stdout);
    _exit(0);
}

int main(int count, char **arguments) {
    int failures = 0;
    if (count < 2) return 2;
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        const struct test *test = &tests[i];
        int status[2] = {0, 0};
        if (count > 2 && strcmp(arguments[2], test->name) != 0) continue;
        double begin = now();
        pid_t server = test->server ? launch(test, test->server, arguments[1], "server") : 0;
        pid_t client = launch(test, test->client, arguments[1], "client");
        waitpid(client, &status[0], 0);
        if (server) waitpid(server, &status[1], 0);
        bool killed = strcmp(test->name, "crash") == 0 && WIFSIGNALED(status[0]) && WTERMSIG(status[0]) == SIGKILL;
        bool ok = (status[0] == 0 || killed) && status[1] == 0;
        printf("%s %s %.1f s (client %x, server %x)\n", ok ? "ok" : "FAILED", test->name, now() - begin, status[0], status[1]);
        fflush(stdout);
        failures += !ok;
    }
    return failures != 0;
}
