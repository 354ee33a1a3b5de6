/* libc as Swift needs it: the headers themselves, and inline forms of what the importer cannot see (macros, thread-local
 * storage, the time stamp counter). Embedded Swift has no Glibc module, so both builds take libc from here. */
#ifndef SANSWITCH_LIBC_H
#define SANSWITCH_LIBC_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <linux/sockios.h>
#include <time.h>
#include <unistd.h>

/* The layout of struct tcp_info that this project reads (linux/tcp.h, since 4.19); glibc's <netinet/tcp.h> stops before it. */
struct san_tcp_info {
    uint8_t state, other[7];
    uint32_t words[24];
    uint64_t pacing_rate, max_pacing_rate;
    uint64_t bytes_acked, bytes_received;
    uint32_t segs_out, segs_in;
    uint32_t notsent_bytes, min_rtt, data_segs_in, data_segs_out;
    uint64_t delivery_rate, busy_time, rwnd_limited, sndbuf_limited;
    uint32_t delivered, delivered_ce;
    uint64_t bytes_sent, bytes_retrans;
};
_Static_assert(offsetof(struct san_tcp_info, bytes_acked) == 120, "struct tcp_info as the kernel lays it out");
_Static_assert(offsetof(struct san_tcp_info, bytes_sent) == 200, "struct tcp_info as the kernel lays it out");

static inline int libc_errno(void) { return errno; }
static inline void libc_set_errno(int value) { errno = value; }

/* Ticks of a clock that user space reads without a system call; its rate is measured once at start (Clock.swift). */
static inline uint64_t libc_ticks(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t value;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
    return value;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

static inline uint64_t libc_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The processor that runs this thread, plus one; 0 when unknown. No system call (rseq, vDSO). */
static inline uint32_t libc_processor(void) {
    int cpu = sched_getcpu();
    return cpu < 0 ? 0 : (uint32_t)cpu + 1;
}

static inline void libc_spin_hint(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* The caller's thread id, cached; fork's child clears it (Fork.swift). */
extern __thread uint32_t libc_cached_tid __attribute__((tls_model("initial-exec")));
static inline uint32_t libc_thread_id(void) {
    if (__builtin_expect(libc_cached_tid == 0, 0)) libc_cached_tid = (uint32_t)syscall(SYS_gettid);
    return libc_cached_tid;
}
static inline void libc_forget_thread_id(void) { libc_cached_tid = 0; }

static inline unsigned long libc_fionread(void) { return FIONREAD; }
static inline unsigned long libc_fionbio(void) { return FIONBIO; }
static inline unsigned long libc_siocoutq(void) { return SIOCOUTQ; }
static inline unsigned long libc_siocinq(void) { return SIOCINQ; }
static inline unsigned long libc_siocatmark(void) { return SIOCATMARK; }
static inline void *libc_map_failed(void) { return MAP_FAILED; }

/* fd_set by bit, bounded by FD_SETSIZE as select(2) is by its callers. */
static inline bool libc_fd_isset(int fd, const fd_set *set) { return set && FD_ISSET(fd, set); }
static inline void libc_fd_set(int fd, fd_set *set) { FD_SET(fd, set); }

static inline struct cmsghdr *libc_cmsg_first(const struct msghdr *message) { return CMSG_FIRSTHDR(message); }
static inline struct cmsghdr *libc_cmsg_next(struct msghdr *message, struct cmsghdr *header) { return CMSG_NXTHDR(message, header); }
static inline void *libc_cmsg_data(struct cmsghdr *header) { return CMSG_DATA(header); }
static inline size_t libc_cmsg_length(size_t payload) { return CMSG_LEN(payload); }
static inline size_t libc_cmsg_space(size_t payload) { return CMSG_SPACE(payload); }

/* epoll_event is packed on x86-64; these keep Swift out of unaligned members. */
static inline uint64_t libc_epoll_data(const struct epoll_event *event) { return event->data.u64; }
static inline struct epoll_event libc_epoll_event(uint32_t events, uint64_t data) {
    struct epoll_event event = {.events = events, .data = {.u64 = data}};
    return event;
}

/* A provider's own thread, or a call that it makes: the switch lets it use its hidden descriptors as it likes. */
extern __thread uint32_t libc_in_provider __attribute__((tls_model("initial-exec")));
static inline void libc_enter_provider(void) { libc_in_provider++; }
static inline void libc_leave_provider(void) { libc_in_provider--; }
static inline bool libc_is_provider(void) { return libc_in_provider != 0; }

/* Signals blocked and a detached thread started: the switch thread never runs the program's handlers. */
int libc_start_thread(void *(*body)(void *), void *argument);
int libc_on_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
/* A copy of `fd` at the lowest free number from `first` on, even beyond the soft limit on numbers, closed on exec; or -errno. */
int libc_copy_beyond(int fd, int first);
/* One line to the log descriptor; no allocation. */
void libc_log(int descriptor, const char *event, int fd, uint64_t first, uint64_t second);
void libc_log_text(int descriptor, const char *event, const char *name, const char *text, int number);
#endif
