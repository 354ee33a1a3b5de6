#include "verbs.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <string.h>
#include <sys/mman.h>

/* The functions of the shared objects, each under the version of the interface that the headers describe. */
#define VERBS_CALLS(X) \
    X(ibv_fork_init, "IBVERBS_1.1") X(ibv_is_fork_initialized, "IBVERBS_1.13") X(ibv_alloc_pd, "IBVERBS_1.1") \
    X(ibv_dealloc_pd, "IBVERBS_1.1") X(ibv_create_cq, "IBVERBS_1.1") X(ibv_destroy_cq, "IBVERBS_1.1") \
    X(ibv_create_comp_channel, "IBVERBS_1.0") X(ibv_get_cq_event, "IBVERBS_1.1") X(ibv_ack_cq_events, "IBVERBS_1.1") \
    X(ibv_dereg_mr, "IBVERBS_1.1") X(ibv_get_async_event, "IBVERBS_1.1") X(ibv_ack_async_event, "IBVERBS_1.1")
#define RDMACM_CALLS(X) \
    X(rdma_create_event_channel, "RDMACM_1.0") X(rdma_get_cm_event, "RDMACM_1.0") X(rdma_ack_cm_event, "RDMACM_1.0") \
    X(rdma_create_id, "RDMACM_1.0") X(rdma_destroy_id, "RDMACM_1.0") X(rdma_bind_addr, "RDMACM_1.0") X(rdma_listen, "RDMACM_1.0") \
    X(rdma_resolve_addr, "RDMACM_1.0") X(rdma_resolve_route, "RDMACM_1.0") X(rdma_connect, "RDMACM_1.0") \
    X(rdma_accept, "RDMACM_1.0") X(rdma_reject, "RDMACM_1.0") X(rdma_disconnect, "RDMACM_1.0") \
    X(rdma_create_qp, "RDMACM_1.0") X(rdma_destroy_qp, "RDMACM_1.0") X(rdma_set_option, "RDMACM_1.0")

/* verbs.h makes this name a macro around several. */
typedef struct ibv_mr *(*register_call)(struct ibv_pd *, void *, size_t, int);

#define FIELD(name, version) __typeof__(&name) name;
static struct {
    VERBS_CALLS(FIELD)
    RDMACM_CALLS(FIELD)
    register_call reg_mr;
} calls;
static struct rdma_event_channel *events;
/* The program has librdmacm too: what the libraries open is then not ours alone. */
static bool is_shared;

#define QUIET(...) do { int saved_ = errno; __VA_ARGS__ errno = saved_; } while (0)
#define RESULT(expression) ({ int saved_ = errno; int result_ = (expression); if (result_ != 0) result_ = -errno; errno = saved_; result_; })

static bool resolve(void *library, const char *name, const char *version, void *into) {
    void *symbol = dlvsym(library, name, version);
    memcpy(into, &symbol, sizeof symbol);
    return symbol != NULL;
}

static int load(void) {
    is_shared = dlopen("librdmacm.so.1", RTLD_LAZY | RTLD_NOLOAD) != NULL;
    void *verbs = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL), *cm = dlopen("librdmacm.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!verbs || !cm) return -ENOENT;
#define RESOLVE_VERBS(name, version) if (!resolve(verbs, #name, version, &calls.name)) return -ENOENT;
#define RESOLVE_CM(name, version) if (!resolve(cm, #name, version, &calls.name)) return -ENOENT;
    VERBS_CALLS(RESOLVE_VERBS)
    RDMACM_CALLS(RESOLVE_CM)
    if (!resolve(verbs, "ibv_reg_mr", "IBVERBS_1.1", &calls.reg_mr)) return -ENOENT;
    /* Before Linux 5.12, fork would leave the queues of the parent with pages that no device knows. */
    return calls.ibv_is_fork_initialized() == IBV_FORK_UNNEEDED ? 0 : -calls.ibv_fork_init();
}

int verbs_load(void) {
    int result;
    QUIET({ result = load(); });
    return result;
}

static void never_block(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

/* Moves one of the libraries' descriptors; on failure it stays where it is. */
static void hide(int *fd, verbs_place place) {
    int placed = place(*fd);
    if (placed >= 0) *fd = placed;
}

int verbs_channel(verbs_place place) {
    int result = -ENODEV;
    QUIET({
        events = calls.rdma_create_event_channel();
        if (events) {
            never_block(events->fd);
            hide(&events->fd, place);
            result = events->fd;
        }
    });
    return result;
}

/* ---- Connection management */

static uint32_t kind(enum rdma_cm_event_type type) {
    switch (type) {
    case RDMA_CM_EVENT_ADDR_RESOLVED: return VERBS_ADDRESS_RESOLVED;
    case RDMA_CM_EVENT_ROUTE_RESOLVED: return VERBS_ROUTE_RESOLVED;
    case RDMA_CM_EVENT_CONNECT_REQUEST: return VERBS_REQUEST;
    case RDMA_CM_EVENT_ESTABLISHED: return VERBS_ESTABLISHED;
    case RDMA_CM_EVENT_REJECTED: return VERBS_REFUSED;
    case RDMA_CM_EVENT_ADDR_ERROR:
    case RDMA_CM_EVENT_ROUTE_ERROR:
    case RDMA_CM_EVENT_CONNECT_ERROR:
    case RDMA_CM_EVENT_UNREACHABLE: return VERBS_UNREACHABLE;
    case RDMA_CM_EVENT_DISCONNECTED: return VERBS_DISCONNECTED;
    case RDMA_CM_EVENT_DEVICE_REMOVAL: return VERBS_DEVICE_REMOVED;
    default: return VERBS_OTHER;
    }
}

int verbs_next_event(verbs_event *out) {
    struct rdma_cm_event *event;
    int result = RESULT(calls.rdma_get_cm_event(events, &event));
    if (result != 0) return result;
    memset(out, 0, sizeof *out);
    out->kind = kind(event->event);
    out->identifier = event->id;
    out->context = event->event == RDMA_CM_EVENT_CONNECT_REQUEST ? event->listen_id->context : event->id->context;
    if (event->event == RDMA_CM_EVENT_CONNECT_REQUEST && event->param.conn.private_data) {
        size_t length = event->param.conn.private_data_len;
        out->length = length < sizeof out->data ? (uint32_t)length : sizeof out->data;
        memcpy(out->data, event->param.conn.private_data, out->length);
    }
    QUIET({ calls.rdma_ack_cm_event(event); });
    return 0;
}

int verbs_identifier(void *context, void **out) {
    return RESULT(calls.rdma_create_id(events, (struct rdma_cm_id **)out, context, RDMA_PS_TCP));
}
void verbs_set_context(void *identifier, void *context) { ((struct rdma_cm_id *)identifier)->context = context; }
int verbs_bind(void *identifier, const void *address) { return RESULT(calls.rdma_bind_addr(identifier, (struct sockaddr *)address)); }
int verbs_listen(void *identifier, int backlog) { return RESULT(calls.rdma_listen(identifier, backlog)); }
int verbs_resolve(void *identifier, const void *source, const void *destination, int milliseconds) {
    return RESULT(calls.rdma_resolve_addr(identifier, (struct sockaddr *)source, (struct sockaddr *)destination, milliseconds));
}
int verbs_resolve_route(void *identifier, int milliseconds) { return RESULT(calls.rdma_resolve_route(identifier, milliseconds)); }

/* Nobody reads from the peer, and a receive is always posted: the retry for a receiver that is not ready is a safety net. */
int verbs_connect(void *identifier, const void *data, size_t length) {
    struct rdma_conn_param parameters = {
        .private_data = data, .private_data_len = (uint8_t)length, .retry_count = 6, .rnr_retry_count = 7};
    return RESULT(calls.rdma_connect(identifier, &parameters));
}
int verbs_accept(void *identifier) {
    struct rdma_conn_param parameters = {.rnr_retry_count = 7};
    return RESULT(calls.rdma_accept(identifier, &parameters));
}
void verbs_reject(void *identifier) { QUIET({ calls.rdma_reject(identifier, NULL, 0); }); }
void verbs_disconnect(void *identifier) { QUIET({ calls.rdma_disconnect(identifier); }); }
void verbs_destroy(void *identifier) { QUIET({ calls.rdma_destroy_id(identifier); }); }
const void *verbs_local_address(void *identifier) { return rdma_get_local_addr(identifier); }
const void *verbs_peer_address(void *identifier) { return rdma_get_peer_addr(identifier); }

/* ---- Devices */

void *verbs_device(void *identifier) { return ((struct rdma_cm_id *)identifier)->verbs; }
bool verbs_is_iwarp(void *device) { return ((struct ibv_context *)device)->device->transport_type == IBV_TRANSPORT_IWARP; }

void *verbs_open(void *device, verbs_place place, verbs_descriptors *out) {
    struct ibv_context *context = device;
    struct ibv_comp_channel *channel;
    *out = (verbs_descriptors){-1, -1, -1, 0};
    QUIET({
        channel = calls.ibv_create_comp_channel(context);
        if (channel) {
            never_block(channel->fd);
            hide(&channel->fd, place);
            out->channel = channel->fd;
        }
        if (channel && !is_shared) {
            hide(&context->cmd_fd, place);
            hide(&context->async_fd, place);
            never_block(context->async_fd);
            out->events = context->async_fd;
            out->commands = context->cmd_fd;
        }
    });
    return channel;
}

bool verbs_renumber(void *device, void *channel, int from, int to) {
    struct ibv_context *context = device;
    int *numbers[] = {
        events ? &events->fd : NULL, channel ? &((struct ibv_comp_channel *)channel)->fd : NULL,
        context ? &context->cmd_fd : NULL, context ? &context->async_fd : NULL};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (!numbers[i] || *numbers[i] != from) continue;
        *numbers[i] = to;
        return true;
    }
    return false;
}

bool verbs_device_event(void *device) {
    struct ibv_async_event event;
    bool is_lost = false;
    QUIET({
        while (calls.ibv_get_async_event(device, &event) == 0) {
            is_lost |= event.event_type == IBV_EVENT_DEVICE_FATAL;
            calls.ibv_ack_async_event(&event);
        }
    });
    return is_lost;
}

/* ---- Queues */

static int make_queues(struct rdma_cm_id *identifier, struct ibv_comp_channel *channel, void *context, uint32_t sends,
                       uint32_t receives, uint32_t inline_limit, verbs_queues *out) {
    struct ibv_context *device = identifier->verbs;
    if (!(out->domain = calls.ibv_alloc_pd(device))) return -errno;
    if (!(out->send_completions = calls.ibv_create_cq(device, (int)sends, context, channel, 0))) return -errno;
    if (!(out->receive_completions = calls.ibv_create_cq(device, (int)receives, context, channel, 0))) return -errno;
    struct ibv_qp_init_attr attributes = {
        .send_cq = out->send_completions, .recv_cq = out->receive_completions, .qp_type = IBV_QPT_RC,
        .cap = {.max_send_wr = sends, .max_recv_wr = receives, .max_send_sge = 1, .max_recv_sge = 1, .max_inline_data = inline_limit}};
    if (calls.rdma_create_qp(identifier, out->domain, &attributes) != 0) return -errno;
    out->pair = identifier->qp;
    out->inline_limit = attributes.cap.max_inline_data;
    return 0;
}

int verbs_make_queues(void *identifier, void *channel, void *context, uint32_t sends, uint32_t receives, uint32_t inline_limit,
                      verbs_queues *out) {
    int result;
    memset(out, 0, sizeof *out);
    QUIET({
        result = make_queues(identifier, channel, context, sends, receives, inline_limit, out);
        if (result != 0) verbs_destroy_queues(out);
    });
    return result;
}

void verbs_destroy_pair(void *identifier, verbs_queues *queues) {
    QUIET(if (queues->pair) calls.rdma_destroy_qp(identifier););
    queues->pair = NULL;
}

void verbs_destroy_queues(verbs_queues *queues) {
    QUIET({
        if (queues->receive_completions) calls.ibv_destroy_cq(queues->receive_completions);
        if (queues->send_completions) calls.ibv_destroy_cq(queues->send_completions);
        if (queues->domain) calls.ibv_dealloc_pd(queues->domain);
    });
    memset(queues, 0, sizeof *queues);
}

int verbs_register(const verbs_queues *queues, void *address, size_t length, bool peer_writes, verbs_region *out) {
    int result = 0;
    QUIET({
        int access = IBV_ACCESS_LOCAL_WRITE | (peer_writes ? IBV_ACCESS_REMOTE_WRITE : 0);
        struct ibv_mr *region = calls.reg_mr(queues->domain, address, length, access);
        if (!region) result = errno ? -errno : -ENOMEM;
        else *out = (verbs_region){region, region->lkey, region->rkey};
        /* Where libibverbs keeps registered memory from fork's child: ours is shared with it, and it may look. */
        madvise(address, length, MADV_DOFORK);
    });
    return result;
}

void verbs_deregister(verbs_region *region) {
    QUIET({ if (region->handle) calls.ibv_dereg_mr(region->handle); });
    memset(region, 0, sizeof *region);
}

int verbs_post_receive(const verbs_queues *queues, uint64_t address, uint32_t length, uint32_t local_key, uint64_t id) {
    struct ibv_sge piece = {.addr = address, .length = length, .lkey = local_key};
    struct ibv_recv_wr request = {.wr_id = id, .sg_list = &piece, .num_sge = 1}, *bad;
    int result;
    QUIET({ result = ibv_post_recv(queues->pair, &request, &bad); });
    return -result;
}

int verbs_post(const verbs_queues *queues, const verbs_request *requests, size_t count) {
    static const enum ibv_wr_opcode opcodes[] = {IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_SEND};
    struct ibv_send_wr chain[VERBS_BATCH], *bad;
    struct ibv_sge pieces[VERBS_BATCH];
    for (size_t i = 0; i < count; i++) {
        const verbs_request *request = &requests[i];
        pieces[i] = (struct ibv_sge){.addr = request->local, .length = request->length, .lkey = request->local_key};
        chain[i] = (struct ibv_send_wr){
            .wr_id = request->id, .next = i + 1 < count ? &chain[i + 1] : NULL, .sg_list = &pieces[i],
            .num_sge = request->length ? 1 : 0, .opcode = opcodes[request->kind],
            .send_flags = (request->is_signaled ? IBV_SEND_SIGNALED : 0u) | (request->is_inline ? IBV_SEND_INLINE : 0u),
            .imm_data = request->immediate, .wr.rdma = {.remote_addr = request->remote, .rkey = request->remote_key}};
    }
    int result;
    QUIET({ result = ibv_post_send(queues->pair, chain, &bad); });
    return -result;
}

int verbs_poll(void *completions, verbs_completion *out, int capacity) {
    struct ibv_wc found[16];
    int count;
    QUIET({ count = ibv_poll_cq(completions, capacity < 16 ? capacity : 16, found); });
    for (int i = 0; i < count; i++) {
        out[i] = (verbs_completion){
            .id = found[i].wr_id, .failed = found[i].status, .is_notification = (found[i].wc_flags & IBV_WC_WITH_IMM) != 0,
            .length = found[i].byte_len, .immediate = found[i].imm_data};
    }
    return count < 0 ? -EIO : count;
}

int verbs_arm(void *completions) {
    int result;
    QUIET({ result = ibv_req_notify_cq(completions, 0); });
    return -result;
}

void *verbs_next_completion_event(void *channel, const verbs_queues *(*queues)(void *context), bool *sends) {
    struct ibv_cq *completions;
    void *context = NULL;
    QUIET({
        if (calls.ibv_get_cq_event(channel, &completions, &context) == 0) {
            calls.ibv_ack_cq_events(completions, 1);
            *sends = queues(context)->send_completions == completions;
        } else context = NULL;
    });
    return context;
}
