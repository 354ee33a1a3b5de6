/* The service provider interface: what the switch asks of a SAN service provider, built in or third party.
 *
 * A provider exports one symbol, san_startup_ex (the seeds' WSPStartupEx). Start-up takes TCP's identity and the switch's
 * upcalls, and fills the function table. Extension functions are fetched one at a time, by GUID, through `ioctl`
 * (SAN_IOCTL_GET_EXTENSION); a known but absent optional one answers -EOPNOTSUPP, an unknown GUID -EINVAL.
 *
 * Conventions: every function returns 0 or a count, or -errno; nothing blocks; nothing touches errno, signals, or the
 * program's descriptors. Descriptors that a provider opens are handed to `place_descriptor` at once, which keeps them out of
 * the program's way. A san_socket belongs to its creator until `close`; one thread at a time calls with it, except
 * ring_doorbell, which any thread may call. */
#ifndef SANSWITCH_PROVIDER_H
#define SANSWITCH_PROVIDER_H
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#define SAN_ABI_VERSION 1u
/* The longest negotiation message, bytes (wsd-requirements 122). */
#define SAN_MESSAGE_LIMIT 256u
/* The longest remote memory descriptor, bytes. */
#define SAN_DESCRIPTOR_LIMIT 32u

typedef struct { uint32_t a; uint16_t b, c; uint8_t d[8]; } san_guid;

/* The provider's own descriptor of a companion socket: any value but 0, often a pointer (seed 1). */
typedef uintptr_t san_socket;
/* The switch's descriptor of the same companion, from the create_socket_handle upcall. */
typedef uintptr_t san_switch_socket;

/* What the companion stands in for: always TCP. A provider that sees this knows that the switch calls it (seed 0). */
typedef struct { int family, type, protocol; } san_protocol;

typedef struct {
    uint64_t size; /* of this table, bytes */
    int (*create_socket_handle)(void *context, san_switch_socket *out);
    void *(*query_socket_handle_context)(san_switch_socket socket);
    void (*close_socket_handle)(san_switch_socket socket);
    /* Moves a descriptor of the provider's to where the program will not meet it; returns the new number or -errno. */
    int (*place_descriptor)(int fd);
    void (*release_descriptor)(int fd);
} san_upcalls;

typedef struct {
    char name[32];
    san_guid guid;
    uint32_t rdma_threshold; /* bytes from which one-sided transfers pay; 0: never */
    uint32_t maximum_ring;   /* bytes, power of two */
} san_provider_info;

/* An IP address in network order; IPv4 in its IPv4-mapped form (::ffff:a.b.c.d). */
typedef struct { uint8_t bytes[16]; } san_address;

/* ADDRESS_LIST: the addresses of the NICs under the provider's control. `out` takes san_address values; the answer is the length
 * of the whole list in bytes, and nothing is written when `out_length` is less. -EOPNOTSUPP: the provider joins the processes of
 * one host. Such a provider is chosen for peers on this host; one with a list for connections from one of its addresses to
 * a peer that needs no router.
 * CONNECT_RESULT: after `connect` answered -EINPROGRESS, 0, -EINPROGRESS or why it failed. */
enum { SAN_IOCTL_GET_EXTENSION = 1, SAN_IOCTL_ADDRESS_LIST = 2, SAN_IOCTL_CONNECT_RESULT = 3, SAN_IOCTL_RENUMBER = 4 };

/* In of RENUMBER, which any thread may ask: the program needs the number `from`. If it is a descriptor of this socket, the same file
 * is open as `to` (-1: no more), and after the answer 0 no call uses `from` but one that already waits there. The switch closes
 * `from`. -ENOENT: not of this socket. -EINVAL: the provider cannot, and the program's call fails with EBUSY. */
typedef struct { int from, to; } san_renumber;

/* Who is at the other end, as the kernel vouches for it; `uid` is (uid_t)-1 when it cannot. */
typedef struct { pid_t pid; uid_t uid; } san_peer;


typedef struct {
    uint64_t size; /* of this table, bytes */
    int (*cleanup)(void);
    int (*socket)(const san_protocol *protocol, san_socket *out);
    int (*bind)(san_socket socket, const struct sockaddr *address, socklen_t length);
    int (*set_option)(san_socket socket, int level, int name, const void *value, socklen_t length);
    int (*listen)(san_socket socket, int backlog);
    /* Starts connecting. 0: connected; -EINPROGRESS: ask SAN_IOCTL_CONNECT_RESULT; -ECONNREFUSED: nobody there is aware. */
    int (*connect)(san_socket socket, const struct sockaddr *address, socklen_t length);
    /* Takes one waiting connection, or -EAGAIN. */
    int (*accept)(san_socket listener, san_socket *out);
    /* The descriptor to poll for readability: connections, messages, doorbells, the end of the companion. */
    int (*event_descriptor)(san_socket socket);
    /* -EOPNOTSUPP: the peer may be on another host. The provider has then made sure that the peer's address is the one it claims. */
    int (*peer)(san_socket socket, san_peer *out);
    /* One whole message of at most SAN_MESSAGE_LIMIT bytes, with the memory exposed on this socket since the last one. */
    ssize_t (*send)(san_socket socket, const void *message, size_t length);
    /* One whole message, or -EAGAIN, or 0 at the end. */
    ssize_t (*recv)(san_socket socket, void *message, size_t capacity);
    int (*ioctl)(san_socket socket, uint32_t code, const void *in, size_t in_length, void *out, size_t out_length);
    /* WSPDuplicateSocket: hands the companion, with all memory received on it, to the process at the other end of
     * `channel`, a connected companion of the same provider. The caller then closes its own. */
    int (*duplicate)(san_socket socket, san_socket channel, const void *message, size_t length);
    /* Takes what `duplicate` sent. `recv` on the channel has just returned its message. */
    int (*adopt)(san_socket channel, san_socket *out);
    /* Abrupt: pending operations end, the peer's event descriptor becomes readable. */
    int (*close)(san_socket socket);
} san_functions;

__attribute__((visibility("default")))
int san_startup_ex(uint32_t version, const san_protocol *tcp, const san_upcalls *upcalls, san_functions *functions,
                   san_provider_info *info);

/* Extension functions, by GUID (wsd-requirements 18.1). */
#define SAN_GUID static const __attribute__((unused))
#define SAN_GUID_TAIL 0xf58c, 0x11d1, {0xad, 0x6c, 0x00, 0xc0, 0x4f, 0xa3, 0x4a, 0x2d}
SAN_GUID san_guid SAN_REGISTER_MEMORY = {0xc0b422f5, SAN_GUID_TAIL};
SAN_GUID san_guid SAN_DEREGISTER_MEMORY = {0xc0b422f6, SAN_GUID_TAIL};
SAN_GUID san_guid SAN_REGISTER_RDMA_MEMORY = {0xc0b422f7, SAN_GUID_TAIL};
SAN_GUID san_guid SAN_DEREGISTER_RDMA_MEMORY = {0xc0b422f8, SAN_GUID_TAIL};
SAN_GUID san_guid SAN_RDMA_WRITE = {0xc0b422f9, SAN_GUID_TAIL};
SAN_GUID san_guid SAN_RDMA_READ = {0xc0b422fa, SAN_GUID_TAIL};
SAN_GUID san_guid SAN_CACHE_CALLBACK = {0xe5da4af8, 0xd824, 0x48cd, {0xa7, 0x99, 0x63, 0x37, 0xa9, 0x8e, 0xd2, 0xaf}};
/* Ours: memory that both sides address directly, and the doorbell that wakes a peer. */
SAN_GUID san_guid SAN_DIRECT_MEMORY = {0x5a4e5357, 0x0001, 0x4d45, {0x4d, 0x4f, 0x52, 0x59, 0, 0, 0, 1}};

typedef struct {
    uint64_t size; /* of this table, bytes */
    /* Memory of `length` bytes that the peer of this socket may write; descriptor_length in: capacity, out: length. */
    int (*expose)(san_socket socket, size_t length, void **address, void *descriptor, size_t *descriptor_length);
    /* The peer's exposed memory, from its descriptor; never longer than the memory really is. */
    int (*map)(san_socket socket, const void *descriptor, size_t descriptor_length, size_t length, void **address);
    int (*unmap)(void *address, size_t length);
    /* Wakes whoever polls the peer's event descriptor. 0, or -EPIPE when there is nobody. */
    int (*ring_doorbell)(san_socket socket);
    /* Blocks until a doorbell or the end, interrupted by signals exactly as recv(2) is: 0 or -EINTR. The one call that blocks. */
    int (*wait_doorbell)(san_socket socket);
    /* Ends every wait_doorbell on this socket, now and later; any thread. */
    int (*interrupt)(san_socket socket);
    /* Takes the doorbells that have arrived. 1: there were some; 0: none; -EPIPE: the companion has ended. */
    int (*silence_doorbell)(san_socket socket);
    /* This end rings no more: the peer's event descriptor shows its end (poll: POLLRDHUP). */
    int (*finish)(san_socket socket);
    /* NULL where mapped memory is the peer's very own (shared memory). Elsewhere mapped memory is this end's copy of it:
     * `push` brings `length` bytes at `offset` to the peer, after everything pushed before, and is a doorbell as well; the
     * other functions of the table then need not be. It does not wait: what cannot leave at once leaves by itself, in order,
     * and later pushes of the same bytes may be joined with it. The first page of the memory holds words, which are brought as they
     * are at the call and publish what was pushed before; pushes beyond it may wait for the next of words. A push of length 0 brings
     * nothing: the caller is about to sleep until the event descriptor is readable, and looks again after this call; a
     * doorbell may be kept from it otherwise, once it has silenced one. Any thread. 0, or -EPIPE when there is nobody. */
    int (*push)(san_socket socket, size_t offset, size_t length);
} san_direct_memory;
#endif
