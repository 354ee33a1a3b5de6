/* libibverbs and librdmacm as the RDMA provider needs them: loaded at first use (verbs_load), never linked, so that a process
 * without RDMA has nothing of them. Objects are opaque here; verbs.c alone sees the libraries' headers. Every function answers 0
 * or a pointer, or -errno or NULL, and leaves the caller's errno alone. Structs have no padding (docs/architecture.md). */
#ifndef SANSWITCH_VERBS_H
#define SANSWITCH_VERBS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* 0; -ENOENT: no such libraries here, or too old. */
int verbs_load(void);

/* Where the libraries' descriptors go: `place` moves one and answers its new number. */
typedef int (*verbs_place)(int fd);

/* ---- Connection management (rdma_cm): identifiers and their events, on the provider's one channel. */
enum {
    VERBS_OTHER = 0, VERBS_ADDRESS_RESOLVED, VERBS_ROUTE_RESOLVED, VERBS_REQUEST, VERBS_ESTABLISHED, VERBS_REFUSED,
    VERBS_UNREACHABLE, VERBS_DISCONNECTED, VERBS_DEVICE_REMOVED
};
#define VERBS_PRIVATE_DATA 56
typedef struct {
    void *identifier; /* of a request: the new connection's */
    void *context;    /* as given to verbs_identifier; of a request: the listener's */
    uint32_t kind, length;
    uint8_t data[VERBS_PRIVATE_DATA];
} verbs_event;

int verbs_channel(verbs_place place);
int verbs_next_event(verbs_event *out); /* -EAGAIN: none */
int verbs_identifier(void *context, void **out);
void verbs_set_context(void *identifier, void *context);
int verbs_bind(void *identifier, const void *address);
int verbs_listen(void *identifier, int backlog);
int verbs_resolve(void *identifier, const void *source, const void *destination, int milliseconds);
int verbs_resolve_route(void *identifier, int milliseconds);
int verbs_connect(void *identifier, const void *data, size_t length);
int verbs_accept(void *identifier);
void verbs_reject(void *identifier);
void verbs_disconnect(void *identifier);
void verbs_destroy(void *identifier);
const void *verbs_local_address(void *identifier);
const void *verbs_peer_address(void *identifier);

/* ---- Devices */
void *verbs_device(void *identifier); /* NULL before the identifier is bound to one */
bool verbs_is_iwarp(void *device);
/* The descriptors of a device: its completion channel's, its events', its commands'; -1 for what the program shares. */
typedef struct { int channel, events, commands, unused; } verbs_descriptors;
/* Moves the device's own descriptors away and opens a completion channel, which it answers. */
void *verbs_open(void *device, verbs_place place, verbs_descriptors *out);
/* The program needs the number `from`; the same file is open as `to`. False: not the libraries'. */
bool verbs_renumber(void *device, void *channel, int from, int to);
/* True when the device is lost for good. */
bool verbs_device_event(void *device);

/* ---- Queues of one session, in a protection domain of its own */
typedef struct {
    void *domain, *pair, *send_completions, *receive_completions;
    uint64_t inline_limit;
} verbs_queues;
int verbs_make_queues(void *identifier, void *channel, void *context, uint32_t sends, uint32_t receives, uint32_t inline_limit,
                      verbs_queues *out);
/* The pair first; memory is deregistered between the two. */
void verbs_destroy_pair(void *identifier, verbs_queues *queues);
void verbs_destroy_queues(verbs_queues *queues);

typedef struct { void *handle; uint32_t local_key, remote_key; } verbs_region;
int verbs_register(const verbs_queues *queues, void *address, size_t length, bool peer_writes, verbs_region *out);
void verbs_deregister(verbs_region *region);

int verbs_post_receive(const verbs_queues *queues, uint64_t address, uint32_t length, uint32_t local_key, uint64_t id);

enum { VERBS_WRITE = 0, VERBS_NOTIFY = 1, VERBS_SEND = 2 }; /* NOTIFY: a write with immediate */
typedef struct {
    uint64_t local, remote, id;
    uint32_t length, local_key, remote_key, immediate;
    uint32_t kind, is_inline, is_signaled, unused;
} verbs_request;
#define VERBS_BATCH 24
/* Posts `count` requests, at most VERBS_BATCH, by one call. */
int verbs_post(const verbs_queues *queues, const verbs_request *requests, size_t count);

typedef struct { uint64_t id; uint32_t failed, is_notification, length, immediate; } verbs_completion;
/* How many, at most `capacity`; or -errno. */
int verbs_poll(void *completions, verbs_completion *out, int capacity);
int verbs_arm(void *completions);
/* The context of the queues whose completion queue has had its event; NULL: none. `sends` says which of the two it was. */
void *verbs_next_completion_event(void *channel, const verbs_queues *(*queues)(void *context), bool *sends);
#endif
