/* A complete service provider in plain C: shared memory between two processes of one host.
 *
 * docs/writing-a-provider.md walks through it. It depends on <sanswitch/provider.h> and libc, and shares no code with the provider
 * that is built into the switch. A companion is an AF_UNIX packet socket: one packet is one message, with the memory exposed
 * since the last one beside it; a packet of one byte is a doorbell; the end of the socket is the end of the companion. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <sanswitch/provider.h>

/* The record behind a san_socket. The switch names it by its address; we name it to the switch by `handle`. */
struct companion {
    atomic_int fd;            /* the packet socket */
    atomic_int memory;        /* exposed and not yet passed on, or received and not yet mapped; -1 for none */
    atomic_int handed_over;   /* a companion that `duplicate` sent and `adopt` has not taken; -1 for none */
    san_switch_socket handle; /* the switch's descriptor of this companion, for upcalls */
    struct sockaddr_un name;  /* where it listens, from `bind` */
    socklen_t name_length;
};

static const san_guid OWN_GUID = {0x6f1c2d3e, 0x0001, 0x4d45, {0x8d, 0x4f, 0x52, 0x59, 0, 0, 0, 1}};
static san_upcalls upcalls;
static atomic_int starts;

static struct companion *record(san_socket socket) { return (struct companion *)socket; }
static int failure(void) { return -errno; }

/* Descriptors go where the program does not meet them, at once: it may close every number that it does not know. */
static int place(int fd) {
    int placed = fd < 0 ? failure() : upcalls.place_descriptor(fd);
    if (placed < 0 && fd >= 0) close(fd);
    return placed;
}

/* A placed descriptor is closed to everybody until it is released. */
static void discard(int fd) {
    if (fd < 0) return;
    upcalls.release_descriptor(fd);
    close(fd);
}

static int example_close(san_socket socket) {
    struct companion *companion = record(socket);
    discard(companion->fd);
    discard(companion->memory);
    discard(companion->handed_over);
    if (companion->handle) upcalls.close_socket_handle(companion->handle); /* the last upcall */
    free(companion);
    return 0;
}

/* Makes a record, gets the switch's handle for it, and returns our own descriptor, in this order. `fd` is placed already. */
static int publish(int fd, int memory, san_socket *out) {
    if (fd < 0) return fd;
    struct companion *companion = calloc(1, sizeof *companion);
    if (!companion) {
        discard(fd);
        discard(memory);
        return -ENOBUFS;
    }
    companion->fd = fd;
    companion->memory = memory;
    companion->handed_over = -1;
    int result = upcalls.create_socket_handle(companion, &companion->handle);
    if (result != 0) {
        example_close((san_socket)companion);
        return result;
    }
    *out = (san_socket)companion;
    return 0;
}

static int example_socket(const san_protocol *protocol, san_socket *out) {
    if (protocol->type != SOCK_STREAM) return -EPROTOTYPE;
    return publish(place(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)), -1, out);
}

/* ---- Addresses: the switch speaks IP, we translate to names of our own, one name space for each network namespace */

static int translate(const struct sockaddr *address, socklen_t length, struct sockaddr_un *out, socklen_t *out_length) {
    const struct sockaddr_in *four = (const void *)address;
    const struct sockaddr_in6 *six = (const void *)address;
    unsigned char bytes[16] = {[10] = 0xff, [11] = 0xff};
    unsigned port;
    if (length >= sizeof *four && address->sa_family == AF_INET) {
        memcpy(bytes + 12, &four->sin_addr, 4);
        port = ntohs(four->sin_port);
        if (four->sin_addr.s_addr == INADDR_ANY) memset(bytes, 0, 16);
    } else if (length >= sizeof *six && address->sa_family == AF_INET6) {
        memcpy(bytes, &six->sin6_addr, 16);
        port = ntohs(six->sin6_port);
    } else {
        return -EAFNOSUPPORT;
    }
    memset(out, 0, sizeof *out);
    out->sun_family = AF_UNIX;
    int count = snprintf(out->sun_path + 1, sizeof out->sun_path - 1, "san-example:%u:", port);
    for (int i = 0; i < 16; i++) count += snprintf(out->sun_path + 1 + count, 3, "%02x", bytes[i]);
    *out_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)count);
    return 0;
}

static int example_bind(san_socket socket, const struct sockaddr *address, socklen_t length) {
    return translate(address, length, &record(socket)->name, &record(socket)->name_length);
}

static int example_listen(san_socket socket, int backlog) {
    struct companion *companion = record(socket);
    if (companion->name_length == 0) return -EINVAL;
    if (bind(companion->fd, (struct sockaddr *)&companion->name, companion->name_length) != 0) return failure();
    return listen(companion->fd, backlog) == 0 ? 0 : failure();
}

/* The exact address, then the wildcard. A full backlog answers -EAGAIN instead of waiting, by way of a non-blocking socket. */
static int example_connect(san_socket socket, const struct sockaddr *address, socklen_t length) {
    struct companion *companion = record(socket);
    struct sockaddr_un name;
    socklen_t name_length;
    int result = translate(address, length, &name, &name_length);
    if (result != 0) return result;
    struct timeval at_once = {0, 1}, for_ever = {0, 0};
    setsockopt(companion->fd, SOL_SOCKET, SO_SNDTIMEO, &at_once, sizeof at_once);
    result = connect(companion->fd, (struct sockaddr *)&name, name_length) == 0 ? 0 : failure();
    if (result == -ECONNREFUSED) {
        memset(strrchr(name.sun_path + 1, ':') + 1, '0', 32);
        result = connect(companion->fd, (struct sockaddr *)&name, name_length) == 0 ? 0 : failure();
    }
    setsockopt(companion->fd, SOL_SOCKET, SO_SNDTIMEO, &for_ever, sizeof for_ever);
    return result;
}

static int example_accept(san_socket listener, san_socket *out) {
    struct pollfd waiting = {.fd = record(listener)->fd, .events = POLLIN};
    if (poll(&waiting, 1, 0) <= 0) return -EAGAIN;
    int fd = accept4(record(listener)->fd, NULL, NULL, SOCK_CLOEXEC);
    return fd < 0 ? failure() : publish(place(fd), -1, out);
}

/* ---- Options and control codes */

/* Nothing that a program sets on a TCP socket means anything to shared memory. */
static int example_set_option(san_socket socket, int level, int name, const void *value, socklen_t length) {
    (void)socket, (void)level, (void)name, (void)value, (void)length;
    return -ENOPROTOOPT;
}

static int example_event_descriptor(san_socket socket) { return record(socket)->fd; }

static int example_peer(san_socket socket, san_peer *out) {
    struct ucred who;
    socklen_t length = sizeof who;
    if (getsockopt(record(socket)->fd, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0) return failure();
    *out = (san_peer){.pid = who.pid, .uid = who.uid};
    return 0;
}

/* ---- Messages */

/* One packet, with up to two descriptors beside it. */
static ssize_t transmit(int fd, const void *message, size_t length, int first, int second) {
    union { struct cmsghdr header; char bytes[CMSG_SPACE(2 * sizeof(int))]; } control = {0};
    struct iovec vector = {(void *)message, length};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};
    int count = first < 0 ? 0 : second < 0 ? 1 : 2;
    if (count > 0) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        *rights = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN((size_t)count * sizeof(int))};
        memcpy(CMSG_DATA(rights), (int[]){first, second}, (size_t)count * sizeof(int));
    }
    ssize_t sent = sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? failure() : sent;
}

static ssize_t example_send(san_socket socket, const void *message, size_t length) {
    struct companion *companion = record(socket);
    if (length < 2 || length > SAN_MESSAGE_LIMIT) return -EMSGSIZE;
    ssize_t sent = transmit(companion->fd, message, length, companion->memory, -1);
    if (sent >= 0) {
        discard(companion->memory);
        companion->memory = -1;
    }
    return sent;
}

static void keep(atomic_int *place_of, int fd) {
    discard(*place_of);
    *place_of = place(fd);
}

static ssize_t example_recv(san_socket socket, void *message, size_t capacity) {
    struct companion *companion = record(socket);
    union { struct cmsghdr header; char bytes[CMSG_SPACE(2 * sizeof(int))]; } control;
    struct iovec vector = {message, capacity};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t received = recvmsg(companion->fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (received < 0) return failure();
    struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
    if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
        int fds[2];
        size_t count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(rights), count * sizeof(int));
        if (count > 0) keep(&companion->memory, fds[0]);
        if (count > 1) keep(&companion->handed_over, fds[1]);
    }
    return header.msg_flags & MSG_TRUNC ? -EMSGSIZE : received;
}

/* ---- Handing a companion to the process that accepted the connection */

static int example_duplicate(san_socket socket, san_socket channel, const void *message, size_t length) {
    ssize_t sent = transmit(record(channel)->fd, message, length, record(socket)->memory, record(socket)->fd);
    return sent < 0 ? (int)sent : 0;
}

static int example_adopt(san_socket channel, san_socket *out) {
    struct companion *from = record(channel);
    if (from->handed_over < 0) return -EINVAL;
    int fd = from->handed_over, memory = from->memory;
    from->handed_over = from->memory = -1;
    return publish(fd, memory, out);
}

/* ---- Direct memory, the extension that carries the bytes */

static int example_expose(san_socket socket, size_t length, void **address, void *descriptor, size_t *descriptor_length) {
    int fd = memfd_create("san-example", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return failure();
    /* Sealed against shrinking: whoever maps it must not be killed by the other side. */
    void *mapped = MAP_FAILED;
    if (ftruncate(fd, (off_t)length) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        mapped = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED || *descriptor_length < sizeof length) {
        close(fd);
        return -ENOBUFS;
    }
    keep(&record(socket)->memory, fd);
    if (record(socket)->memory < 0) {
        munmap(mapped, length);
        return record(socket)->memory;
    }
    memcpy(descriptor, &length, sizeof length);
    *descriptor_length = sizeof length;
    *address = mapped;
    return 0;
}

/* The peer is hostile: its memory is as long as the kernel says, and sealed, or it is not mapped. */
static int example_map(san_socket socket, const void *descriptor, size_t descriptor_length, size_t length, void **address) {
    struct companion *companion = record(socket);
    struct stat status;
    int fd = companion->memory;
    (void)descriptor;
    if (fd < 0 || descriptor_length != sizeof length) return -EINVAL;
    /* The switch keeps fcntl on a placed descriptor from everybody: release it first. */
    upcalls.release_descriptor(fd);
    companion->memory = -1;
    int seals = fcntl(fd, F_GET_SEALS);
    int result = -EPERM;
    if (seals >= 0 && (seals & F_SEAL_SHRINK) && !(seals & F_SEAL_WRITE) && fstat(fd, &status) == 0 && (size_t)status.st_size >= length) {
        void *mapped = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        result = mapped == MAP_FAILED ? -ENOBUFS : 0;
        if (result == 0) *address = mapped;
    }
    close(fd);
    return result;
}

static int example_unmap(void *address, size_t length) { return munmap(address, length) == 0 ? 0 : failure(); }

static int example_ring_doorbell(san_socket socket) {
    ssize_t sent = send(record(socket)->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    /* A queue that is full of doorbells wakes the peer as well as one more would. */
    return sent >= 0 || errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? 0 : -EPIPE;
}

/* Blocks as recv(2) does, so that signals interrupt or restart it as they would a read of the program's. */
static int example_wait_doorbell(san_socket socket) {
    char byte;
    return recv(record(socket)->fd, &byte, 1, MSG_PEEK) < 0 ? failure() : 0;
}

static int example_interrupt(san_socket socket) { return shutdown(record(socket)->fd, SHUT_RD) == 0 ? 0 : failure(); }

static int example_silence_doorbell(san_socket socket) {
    char bytes[8];
    int result = 0;
    for (;;) {
        ssize_t received = recv(record(socket)->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (received == 0) return -EPIPE;
        if (received < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? result : -EPIPE;
        result = 1;
    }
}

static int example_finish(san_socket socket) { return shutdown(record(socket)->fd, SHUT_WR) == 0 ? 0 : failure(); }

static const san_direct_memory direct_memory = {
    .size = sizeof direct_memory,
    .expose = example_expose,
    .map = example_map,
    .unmap = example_unmap,
    .ring_doorbell = example_ring_doorbell,
    .wait_doorbell = example_wait_doorbell,
    .interrupt = example_interrupt,
    .silence_doorbell = example_silence_doorbell,
    .finish = example_finish,
};

/* A known extension that we lack is "not supported"; one that nobody knows is "invalid". */
static int extension(const san_guid *guid, void *out, size_t out_length) {
    static const san_guid *const absent[] = {&SAN_REGISTER_MEMORY, &SAN_DEREGISTER_MEMORY, &SAN_REGISTER_RDMA_MEMORY,
        &SAN_DEREGISTER_RDMA_MEMORY, &SAN_RDMA_WRITE, &SAN_RDMA_READ, &SAN_CACHE_CALLBACK};
    if (memcmp(guid, &SAN_DIRECT_MEMORY, sizeof *guid) == 0) {
        if (out_length < sizeof direct_memory) return -EFAULT;
        memcpy(out, &direct_memory, sizeof direct_memory);
        return 0;
    }
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        if (memcmp(guid, absent[i], sizeof *guid) == 0) return -EOPNOTSUPP;
    return -EINVAL;
}

/* The program wants a number that one of our descriptors has: the switch has opened the same file as another. */
static int renumber(struct companion *companion, const san_renumber *numbers) {
    atomic_int *const fields[] = {&companion->fd, &companion->memory, &companion->handed_over};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (atomic_load(fields[i]) != numbers->from) continue;
        atomic_store(fields[i], numbers->to);
        return 0;
    }
    return -ENOENT;
}

static int example_ioctl(san_socket socket, uint32_t code, const void *in, size_t in_length, void *out, size_t out_length) {
    switch (code) {
    case SAN_IOCTL_GET_EXTENSION: return in_length == sizeof(san_guid) ? extension(in, out, out_length) : -EINVAL;
    case SAN_IOCTL_ADDRESS_LIST: return -EOPNOTSUPP; /* no NIC: both ends are on this host */
    case SAN_IOCTL_RENUMBER: return renumber(record(socket), in);
    default: return -EINVAL;
    }
}

/* ---- Start-up */

static int example_cleanup(void) {
    if (atomic_load(&starts) == 0) return -EINVAL;
    atomic_fetch_sub(&starts, 1);
    return 0;
}

int san_startup_ex(uint32_t version, const san_protocol *tcp, const san_upcalls *given, san_functions *functions, san_provider_info *info) {
    if (version != SAN_ABI_VERSION || given->size < sizeof upcalls) return -ENOTSUP;
    if (tcp->type != SOCK_STREAM || tcp->protocol != IPPROTO_TCP) return -EINVAL; /* not called by the switch */
    upcalls = *given;
    *functions = (san_functions){
        .size = sizeof *functions,
        .cleanup = example_cleanup,
        .socket = example_socket,
        .bind = example_bind,
        .set_option = example_set_option,
        .listen = example_listen,
        .connect = example_connect,
        .accept = example_accept,
        .event_descriptor = example_event_descriptor,
        .peer = example_peer,
        .send = example_send,
        .recv = example_recv,
        .ioctl = example_ioctl,
        .duplicate = example_duplicate,
        .adopt = example_adopt,
        .close = example_close,
    };
    *info = (san_provider_info){.name = "example", .guid = OWN_GUID, .maximum_ring = 1 << 20};
    atomic_fetch_add(&starts, 1);
    return 0;
}
