/* The service provider interface: what the switch asks of a SAN service provider, built in or third party.
 *
 * A provider exports one symbol, san_startup_ex. Start-up takes TCP's identity and the switch's upcalls, and fills the function table;
 * extension functions are then fetched one at a time, by GUID, through `ioctl`. docs/writing-a-provider.md walks through a complete one,
 * docs/wsd.md has the requirements (M1 to M22) that the entries below name, `sanswitch provider-check LIBRARY` tries them all.
 *
 * Conventions, unless an entry says otherwise:
 *
 * - Results: 0 or a count; or -errno. errno itself may change, the switch keeps the program's.
 * - Time: no entry blocks, and none takes a lock that a blocked call holds. wait_doorbell is the one that waits.
 * - Units: bytes. Addresses are IP (AF_INET, AF_INET6), as TCP has them; the provider translates to its own (M13).
 * - Ownership: pointers belong to the caller and are good until the entry returns. A san_socket is the switch's to close, exactly once. What
 *   `expose` and `map` return is the switch's to `unmap`, before or after `close`.
 * - Threads: any thread, but one at a time for a socket; the switch also calls from a thread of its own, which blocks all signals.
 *   Entries marked "any thread" are called while another thread is in another entry of the same socket.
 * - Processes: after fork(2) the child may call `close` for the sockets it inherited, any entry for one that it alone goes on to use, and
 *   `socket` for new ones. Threads of the provider's own are not there. What is open does not survive exec(2).
 * - Descriptors: each is handed to `place_descriptor` as soon as it is open, before anything else is called, since the program may
 *   close every number that it does not know. After that fcntl, ioctl, dup and close answer EBADF until `release_descriptor`:
 *   set flags before, release just before closing. The rest (recv, send, poll, mmap, ...) works as usual.
 * - The program's signals, its signal mask, its output and its descriptors are left alone (M10). */
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

/* What the companion stands in for: AF_INET, SOCK_STREAM, IPPROTO_TCP, whatever the address family of the connection. At start-up it is
 * TCP's identity by which a provider knows that the switch calls it (seed 0, M2); to `socket` nothing else is ever passed (M11). */
typedef struct { int family, type, protocol; } san_protocol;

/* What the switch offers to a provider: the same table for all, good for as long as the process. Any thread may call, also inside an entry. */
typedef struct {
    uint64_t size; /* of this table, bytes; a provider that needs more of it answers -ENOTSUP at start-up */
    /* WPUCreateSocketHandle (seed 1, M12): the switch's descriptor of a companion. To be called by `socket`, `accept` and `adopt` when
     * the provider's record is ready; `context` is that record. 0, or -errno: then the entry fails with it. */
    int (*create_socket_handle)(void *context, san_switch_socket *out);
    /* WPUQuerySocketHandleContext (seed 1, M12): the context of a handle; NULL for one that is not open. */
    void *(*query_socket_handle_context)(san_switch_socket socket);
    /* WPUCloseSocketHandle (seed 1, M12): the last upcall for a companion, from `close`, or when an entry fails after it got a handle. */
    void (*close_socket_handle)(san_switch_socket socket);
    /* Moves a descriptor to where the program will not meet it (M10): the new number, close-on-exec, and `fd` is closed; or -errno, and `fd`
     * is the provider's to close. */
    int (*place_descriptor)(int fd);
    /* Makes a placed descriptor an ordinary one again; to be called just before it is closed. Does nothing to any other. */
    void (*release_descriptor)(int fd);
} san_upcalls;

/* What a provider says of itself at start-up. */
typedef struct {
    char name[32];           /* letters, digits, dots, dashes, underscores, and a NUL */
    san_guid guid;           /* the one in its registration (M1); made once, by uuidgen(1) or the like */
    uint32_t rdma_threshold; /* bytes above which one-sided transfers pay; 0: never. Not used yet */
    uint32_t maximum_ring;   /* bytes: most memory that a session should expose as one ring, a power of two from 4096 on */
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

/* The function table that start-up fills. All are mandatory: a provider with a NULL among them is refused, and the log says which (M5). */
typedef struct {
    uint64_t size; /* of this table, bytes */
    /* WSPCleanup (M2): the counterpart of one start-up, when none of the provider's sockets is open. Start-ups are counted; the last clean-up
     * releases everything. -EINVAL: there was no start-up. The library stays loaded. */
    int (*cleanup)(void);
    /* WSPSocket (seed 1, M10, M12): makes a companion; its record, then the switch's handle, then its own descriptor in `out`. Called when the
     * program's listen or connect makes it worth while, never before (M9). -EPROTOTYPE: not a TCP stream (M11). Any other failure, and one of
     * bind or set_option, ends in `close`, and TCP carries on (M15). */
    int (*socket)(const san_protocol *protocol, san_socket *out);
    /* WSPBind (seed 1, M13): at once after `socket`. The TCP socket's own address and port, both given; for a wildcard listener the wildcard
     * address (0.0.0.0 or ::) and the port. Port arbitration is TCP's: no two programs come with the same pair, but the processes of one
     * listener may. -EADDRNOTAVAIL, -EAFNOSUPPORT. */
    int (*bind)(san_socket socket, const struct sockaddr *address, socklen_t length);
    /* WSPSetSockOpt (seed 1, M14): an option that the program has set, with TCP's present value, before `listen` or `connect`: SO_DEBUG,
     * SO_PRIORITY, SO_KEEPALIVE, SO_SNDBUF, SO_RCVBUF, SO_LINGER, SO_MARK, TCP_NODELAY, IP_TOS, IPV6_TCLASS. -ENOPROTOOPT for one that
     * the provider does not have, which is no failure. */
    int (*set_option)(san_socket socket, int level, int name, const void *value, socklen_t length);
    /* WSPListen (seed 1, M17): waits for `connect`s to the bound address; for the wildcard, to any address with this port. -EADDRINUSE when
     * another socket, of any process, listens there: that process then serves all. */
    int (*listen)(san_socket socket, int backlog);
    /* WSPConnect (seed 3, M19): starts connecting to the companion that listens at `address`, exactly or by the wildcard. 0: connected.
     * -EINPROGRESS: ask SAN_IOCTL_CONNECT_RESULT. -ECONNREFUSED: nobody there is aware. -EAGAIN: not now. All failures mean: TCP. */
    int (*connect)(san_socket socket, const struct sockaddr *address, socklen_t length);
    /* WSPAccept (M6): takes one waiting connection, or -EAGAIN. After any other error but -EINTR and -ECONNABORTED the listener is closed. */
    int (*accept)(san_socket listener, san_socket *out);
    /* WSPEventSelect (M6, M20): a placed descriptor, the same for the socket's whole life, which the switch polls for readability: a waiting
     * connection, a message, a doorbell, the end of the companion (that one as POLLRDHUP, too). */
    int (*event_descriptor)(san_socket socket);
    /* Who is at the other end, by the kernel's word; the switch compares it with the owner of the TCP connection (M10). -EOPNOTSUPP: the peer may
     * be on another host, and the provider has made sure that its address is the one it claims. */
    int (*peer)(san_socket socket, san_peer *out);
    /* WSPSend (M20): one whole negotiation message, 2 to SAN_MESSAGE_LIMIT bytes, and with it what makes the memory exposed on this
     * socket since the last one reachable. The length, or -EAGAIN, -EPIPE. */
    ssize_t (*send)(san_socket socket, const void *message, size_t length);
    /* WSPRecv (M20): one whole message, never more than `capacity`; -EAGAIN; 0 at the end. Not called any more once doorbells are in use. */
    ssize_t (*recv)(san_socket socket, void *message, size_t capacity);
    /* WSPIoctl (seed 0, seed 2): the SAN_IOCTL codes above; -EINVAL for another. GET_EXTENSION takes a GUID and gives a function table or pointer;
     * `socket` is then 0. -EOPNOTSUPP: known, but the provider does not have it; -EINVAL: unknown GUID (M4, M5). */
    int (*ioctl)(san_socket socket, uint32_t code, const void *in, size_t in_length, void *out, size_t out_length);
    /* WSPDuplicateSocket: hands the companion, with all memory received on it and not mapped yet, to the process at the other end of `channel`, a
     * connected companion of the same provider, together with a message. The caller then closes its own. -EOPNOTSUPP: connections that
     * another process accepted than the one that listens stay on TCP. */
    int (*duplicate)(san_socket socket, san_socket channel, const void *message, size_t length);
    /* Takes what `duplicate` sent; `recv` on the channel has just returned its message. -EINVAL: nothing was sent. */
    int (*adopt)(san_socket channel, san_socket *out);
    /* WSPCloseSocket (seed 1, seed 3, M19, M21, M22): abrupt and prompt, in any state, a pending connect included. The peer sees the end; the last
     * upcall is close_socket_handle; everything of the socket but mapped memory is released on return. Nothing is called with it again. */
    int (*close)(san_socket socket);
} san_functions;

/* WSPStartupEx (seed 0, seed 2, M1, M2): the one exported symbol. Fills `functions` and `info` completely and keeps a copy of `upcalls`. 0;
 * -ENOTSUP: not this version; -EINVAL: not TCP's identity, so not the switch; -ENODEV: no device. May be called again; each call counts. */
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

/* The table behind SAN_DIRECT_MEMORY. Mandatory (M5, M18), all but `push`; it takes the place of the seeds' registration functions and RDMA
 * write for providers whose peers address memory, or copies of it, directly. */
typedef struct {
    uint64_t size; /* of this table, bytes */
    /* Memory of `length` bytes, zeroed, that the peer of this socket may write. `descriptor` (at most SAN_DESCRIPTOR_LIMIT bytes) is what the peer
     * passes to `map`; descriptor_length in: capacity, out: length. The next `send` announces it. -ENOBUFS. */
    int (*expose)(san_socket socket, size_t length, void **address, void *descriptor, size_t *descriptor_length);
    /* The memory that the message just received has announced. The descriptor comes from the peer, who is hostile: what is mapped is `length` bytes
     * that nobody can take away (a shrunken file would kill the process), or -EPERM, -EINVAL. */
    int (*map)(san_socket socket, const void *descriptor, size_t descriptor_length, size_t length, void **address);
    /* Releases what `expose` or `map` returned, at the same length. Any thread. */
    int (*unmap)(void *address, size_t length);
    /* Wakes whoever polls the peer's event descriptor or sits in its wait_doorbell; several may become one, none may be lost. Orders memory: what was
     * written before is seen by whoever was woken. Any thread. 0, or -EPIPE when there is nobody. */
    int (*ring_doorbell)(san_socket socket);
    /* Blocks until a doorbell or the end, and takes neither: 0. Interrupted and restarted by signals exactly as recv(2) on a socket is, SA_RESTART
     * included: -EINTR (M20, M21). May return early for no reason. */
    int (*wait_doorbell)(san_socket socket);
    /* Ends every wait_doorbell on this socket, now and later. Any thread. */
    int (*interrupt)(san_socket socket);
    /* Takes the doorbells that have arrived. 1: there were some; 0: none; -EPIPE: the companion has ended. Any thread. */
    int (*silence_doorbell)(san_socket socket);
    /* This end rings no more: the peer's event descriptor shows its end (poll: POLLRDHUP). Any thread. */
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
