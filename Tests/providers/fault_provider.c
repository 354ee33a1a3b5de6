/* The example provider with faults. SAN_FAULT=ENTRY:MODE[:CALLS] makes one entry misbehave from its CALLS-th call on (0):
 *
 *     fail    answers an error          delay   takes 30 ms
 *     lie     says it went well, or gives nonsense
 *     errno   works, and changes errno  pending (connect) never finishes; slow (connect) finishes when asked the third time
 *
 * SAN_FAULT_TRACE=FILE has one line for each call: process, milliseconds, entry, socket, what it was given, what it
 * answers. SAN_FAULT_ADDRESSES=A,B: the addresses of the NICs that it claims to have. The entry rdma_read lies by answering EINVAL. */
#define san_startup_ex example_startup
#include "../../examples/provider/example_provider.c"
#undef san_startup_ex
#include <arpa/inet.h>
#include <stdarg.h>
#include <time.h>

enum mode { NONE, FAIL, DELAY, LIE, ERRNO, PENDING, SLOW };
static san_functions real;
static san_direct_memory real_direct;
static char faulty[32];
static enum mode mode;
static int from_call, trace_file = -1;
static atomic_int calls, queries;

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void trace(const char *entry, san_socket socket, const char *format, ...) {
    char line[512];
    va_list list;
    if (trace_file < 0) return;
    int saved = errno, length = snprintf(line, sizeof line, "%d %ld %s %lx ", (int)getpid(), now(), entry, (unsigned long)socket);
    va_start(list, format);
    length += vsnprintf(line + length, sizeof line - (size_t)length - 1, format, list);
    va_end(list);
    line[length++] = '\n';
    if (write(trace_file, line, (size_t)length) < 0) trace_file = -1;
    errno = saved;
}

/* What is wrong with this call. Delays are spent here. */
static enum mode fault(const char *entry) {
    if (strcmp(entry, faulty) != 0 || atomic_fetch_add(&calls, 1) < from_call) return NONE;
    if (mode == DELAY) usleep(30000);
    if (mode == ERRNO) errno = EXDEV;
    return mode == DELAY || mode == ERRNO ? NONE : mode;
}

/* Whatever the entry itself leaves in errno. */
static long finish(const char *entry, long result) {
    if (mode == ERRNO && strcmp(entry, faulty) == 0) errno = EXDEV;
    return result;
}

static const char *text(const struct sockaddr *address, char *out) {
    const struct sockaddr_in *four = (const void *)address;
    const struct sockaddr_in6 *six = (const void *)address;
    const unsigned char *b = address->sa_family == AF_INET ? (const void *)&four->sin_addr : (const void *)&six->sin6_addr;
    int count = 0;
    for (int i = 0; i < (address->sa_family == AF_INET ? 4 : 16); i++) count += sprintf(out + count, i ? ".%u" : "%u", b[i]);
    sprintf(out + count, ":%u", ntohs(four->sin_port));
    return out;
}

static int fault_cleanup(void) {
    trace("cleanup", 0, "");
    return fault("cleanup") == FAIL ? -EIO : real.cleanup();
}

static int fault_socket(const san_protocol *protocol, san_socket *out) {
    enum mode wrong = fault("socket");
    int result = wrong == FAIL ? -ENOBUFS : wrong == LIE ? 0 : real.socket(protocol, out);
    trace("socket", wrong || result ? 0 : *out, "%d %d %d handle %lx context %d = %d", protocol->family, protocol->type, protocol->protocol,
          wrong || result ? 0 : (unsigned long)record(*out)->handle,
          !wrong && !result && upcalls.query_socket_handle_context(record(*out)->handle) == (void *)*out, result);
    return (int)finish("socket", result);
}

static int fault_bind(san_socket socket, const struct sockaddr *address, socklen_t length) {
    char buffer[128];
    enum mode wrong = fault("bind");
    int result = wrong == FAIL ? -EADDRNOTAVAIL : wrong == LIE ? 0 : real.bind(socket, address, length);
    trace("bind", socket, "%s = %d", text(address, buffer), result);
    return (int)finish("bind", result);
}

static int fault_set_option(san_socket socket, int level, int name, const void *value, socklen_t length) {
    enum mode wrong = fault("set_option");
    int result = wrong == FAIL ? -EINVAL : wrong == LIE ? 1 : real.set_option(socket, level, name, value, length);
    trace("set_option", socket, "%d %d %d = %d", level, name, *(const int *)value, result);
    return (int)finish("set_option", result);
}

static int fault_listen(san_socket socket, int backlog) {
    enum mode wrong = fault("listen");
    int result = wrong == FAIL ? -EADDRINUSE : wrong == LIE ? 0 : real.listen(socket, backlog);
    trace("listen", socket, "%d = %d", backlog, result);
    return (int)finish("listen", result);
}

static int fault_connect(san_socket socket, const struct sockaddr *address, socklen_t length) {
    char buffer[128];
    enum mode wrong = fault("connect");
    int result = wrong == FAIL ? -ETIMEDOUT : wrong == LIE ? 0 : wrong == PENDING ? -EINPROGRESS : real.connect(socket, address, length);
    if (wrong == SLOW && result == 0) result = -EINPROGRESS;
    trace("connect", socket, "%s = %d", text(address, buffer), result);
    return (int)finish("connect", result);
}

static int fault_accept(san_socket listener, san_socket *out) {
    enum mode wrong = fault("accept");
    int result = wrong == FAIL ? -EIO : wrong == LIE ? 1 : real.accept(listener, out);
    trace("accept", listener, "handle %lx = %d", result ? 0 : (unsigned long)record(*out)->handle, result);
    return (int)finish("accept", result);
}

static int fault_event_descriptor(san_socket socket) {
    enum mode wrong = fault("event_descriptor");
    return (int)finish("event_descriptor", wrong == FAIL ? -1 : wrong == LIE ? 0 : real.event_descriptor(socket));
}

static int fault_peer(san_socket socket, san_peer *out) {
    enum mode wrong = fault("peer");
    if (wrong == LIE) *out = (san_peer){1, 4242};
    return (int)finish("peer", wrong == FAIL ? -EIO : wrong == LIE ? 0 : real.peer(socket, out));
}

static ssize_t fault_send(san_socket socket, const void *message, size_t length) {
    enum mode wrong = fault("send");
    return finish("send", wrong == FAIL ? -EPIPE : wrong == LIE ? (ssize_t)length : real.send(socket, message, length));
}

static ssize_t fault_recv(san_socket socket, void *message, size_t capacity) {
    enum mode wrong = fault("recv");
    if (wrong == LIE) return (ssize_t)capacity + 1000;
    return finish("recv", wrong == FAIL ? -EIO : real.recv(socket, message, capacity));
}

static int fault_duplicate(san_socket socket, san_socket channel, const void *message, size_t length) {
    enum mode wrong = fault("duplicate");
    int result = wrong == FAIL ? -EIO : wrong == LIE ? 0 : real.duplicate(socket, channel, message, length);
    trace("duplicate", socket, "= %d", result);
    return (int)finish("duplicate", result);
}

static int fault_adopt(san_socket channel, san_socket *out) {
    enum mode wrong = fault("adopt");
    return (int)finish("adopt", wrong == FAIL ? -EIO : wrong == LIE ? 0 : real.adopt(channel, out));
}

static int fault_close(san_socket socket) {
    enum mode wrong = fault("close");
    trace("close", socket, "");
    int result = real.close(socket);
    return (int)finish("close", wrong == FAIL ? -EIO : result);
}

static int fault_expose(san_socket socket, size_t length, void **address, void *descriptor, size_t *descriptor_length) {
    enum mode wrong = fault("expose");
    if (wrong == LIE) *descriptor_length = 4000;
    int result = wrong == FAIL ? -ENOBUFS : wrong == LIE ? 0 : real_direct.expose(socket, length, address, descriptor, descriptor_length);
    trace("expose", socket, "%zu = %d", length, result);
    return (int)finish("expose", result);
}

/* The lie: memory that the peer has never seen. */
static int fault_map(san_socket socket, const void *descriptor, size_t descriptor_length, size_t length, void **address) {
    enum mode wrong = fault("map");
    if (wrong == LIE) {
        *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return *address == MAP_FAILED ? -ENOBUFS : 0;
    }
    int result = wrong == FAIL ? -EPERM : real_direct.map(socket, descriptor, descriptor_length, length, address);
    trace("map", socket, "%zu = %d", length, result);
    return (int)finish("map", result);
}

static int fault_unmap(void *address, size_t length) {
    enum mode wrong = fault("unmap");
    trace("unmap", 0, "%zu", length);
    return (int)finish("unmap", wrong == FAIL ? -EINVAL : wrong == LIE ? 0 : real_direct.unmap(address, length));
}

/* The lie: "nobody is there" though it has rung. One that swallows doorbells would be a kernel that loses wake-ups. */
static int fault_ring_doorbell(san_socket socket) {
    enum mode wrong = fault("ring_doorbell");
    int result = real_direct.ring_doorbell(socket);
    return (int)finish("ring_doorbell", wrong == FAIL || wrong == LIE ? -EPIPE : result);
}

static int fault_wait_doorbell(san_socket socket) {
    enum mode wrong = fault("wait_doorbell");
    int result = wrong == FAIL ? -EIO : wrong == LIE ? 0 : real_direct.wait_doorbell(socket);
    trace("wait_doorbell", socket, "= %d", result);
    return (int)finish("wait_doorbell", result);
}

static int fault_interrupt(san_socket socket) {
    enum mode wrong = fault("interrupt");
    return (int)finish("interrupt", wrong == FAIL ? -EIO : real_direct.interrupt(socket));
}

static int fault_silence_doorbell(san_socket socket) {
    enum mode wrong = fault("silence_doorbell");
    int result = real_direct.silence_doorbell(socket);
    return (int)finish("silence_doorbell", wrong == FAIL ? -EPIPE : wrong == LIE ? 1 : result);
}

static int fault_finish(san_socket socket) {
    enum mode wrong = fault("finish");
    return (int)finish("finish", wrong == FAIL ? -EIO : wrong == LIE ? 0 : real_direct.finish(socket));
}

static int address_list(san_address *out, size_t capacity) {
    char list[256];
    int count = 0;
    snprintf(list, sizeof list, "%s", getenv("SAN_FAULT_ADDRESSES"));
    for (char *item = strtok(list, ","); item; item = strtok(NULL, ",")) {
        san_address address = {.bytes = {[10] = 0xff, [11] = 0xff}};
        if (inet_pton(AF_INET, item, address.bytes + 12) != 1) continue;
        if (capacity >= (size_t)(count + 1) * sizeof address) out[count] = address;
        count++;
    }
    return count * (int)sizeof *out;
}

static int fault_ioctl(san_socket socket, uint32_t code, const void *in, size_t in_length, void *out, size_t out_length) {
    trace("ioctl", socket, "%u %08x", code, in_length == sizeof(san_guid) ? ((const san_guid *)in)->a : 0);
    if (code == SAN_IOCTL_CONNECT_RESULT) return mode == SLOW && atomic_fetch_add(&queries, 1) >= 2 ? 0 : -EINPROGRESS;
    if (code == SAN_IOCTL_ADDRESS_LIST && getenv("SAN_FAULT_ADDRESSES")) return address_list(out, out_length);
    if (in_length == sizeof(san_guid) && memcmp(in, &SAN_RDMA_READ, in_length) == 0 && fault("rdma_read") == LIE) return -EINVAL;
    enum mode wrong = fault("ioctl");
    if (wrong == FAIL) return -EIO;
    if (wrong == LIE) return 0;
    int result = real.ioctl(socket, code, in, in_length, out, out_length);
    if (result != 0 || code != SAN_IOCTL_GET_EXTENSION) return result;
    real_direct = *(san_direct_memory *)out;
    *(san_direct_memory *)out = (san_direct_memory){
        .size = sizeof real_direct, .expose = fault_expose, .map = fault_map, .unmap = fault_unmap, .ring_doorbell = fault_ring_doorbell,
        .wait_doorbell = fault_wait_doorbell, .interrupt = fault_interrupt, .silence_doorbell = fault_silence_doorbell,
        .finish = fault_finish};
    return 0;
}

static void read_environment(void) {
    static const char *const names[] = {"", "fail", "delay", "lie", "errno", "pending", "slow"};
    char word[16] = "";
    const char *wanted = getenv("SAN_FAULT"), *file = getenv("SAN_FAULT_TRACE");
    if (wanted && sscanf(wanted, "%31[^:]:%15[^:]:%d", faulty, word, &from_call) >= 2)
        for (int i = 1; i < 7; i++)
            if (strcmp(word, names[i]) == 0) mode = (enum mode)i;
    if (file) trace_file = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (trace_file >= 0) trace_file = place(trace_file);
}

__attribute__((visibility("default"))) int san_startup_ex(uint32_t version, const san_protocol *tcp, const san_upcalls *given,
                                                          san_functions *functions, san_provider_info *info) {
    int result = example_startup(version, tcp, given, &real, info);
    if (result != 0) return result;
    read_environment();
    trace("startup", 0, "%u %d %d %d upcalls %lu", version, tcp->family, tcp->type, tcp->protocol, (unsigned long)given->size);
    switch (fault("startup")) {
    case FAIL: real.cleanup(); return -ENODEV;
    case LIE: return 0; /* no table at all */
    default: break;
    }
    *functions = (san_functions){
        .size = sizeof *functions, .cleanup = fault_cleanup, .socket = fault_socket, .bind = fault_bind, .set_option = fault_set_option,
        .listen = fault_listen, .connect = fault_connect, .accept = fault_accept, .event_descriptor = fault_event_descriptor,
        .peer = fault_peer, .send = fault_send, .recv = fault_recv, .ioctl = fault_ioctl, .duplicate = fault_duplicate,
        .adopt = fault_adopt, .close = fault_close};
    return 0;
}
