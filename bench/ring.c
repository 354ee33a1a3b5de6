// A bare ring in memory that two processes share, both ends spinning, each pinned to a
// processor of its own: what this machine can do without sockets, at its best.
// usage: ring rtt COUNT SIZE                    prints the median round trip in nanoseconds
//        ring stream MILLISECONDS SIZE CAPACITY prints bits per second; each byte is copied in and copied out
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "common.h"

struct ring {
    _Alignas(128) _Atomic uint64_t produced;  // written by the sender; release, read by the receiver
    _Alignas(128) _Atomic uint64_t consumed;  // written by the receiver; release, read by the sender
    _Alignas(128) _Atomic int ended;          // written by the sender after its last byte
    _Alignas(4096) char bytes[];
};

// One end's own view: its position, and the other's as last seen, so that the shared line is read only when needed.
struct end {
    struct ring *ring;
    size_t capacity;
    uint64_t mine, theirs;
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static struct ring *make(size_t capacity) {
    void *memory = mmap(NULL, sizeof(struct ring) + capacity, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) stop("mmap");
    memset(memory, 0, sizeof(struct ring) + capacity);
    return memory;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static void put(struct end *end, const char *from, size_t count) {
    while (count) {
        while (end->mine - end->theirs == end->capacity) {
            end->theirs = atomic_load_explicit(&end->ring->consumed, memory_order_acquire);
            if (end->mine - end->theirs == end->capacity) relax();
        }
        size_t at = end->mine & (end->capacity - 1);
        size_t run = smaller(smaller(count, end->capacity - at), end->capacity - (end->mine - end->theirs));
        memcpy(end->ring->bytes + at, from, run);
        end->mine += run;
        atomic_store_explicit(&end->ring->produced, end->mine, memory_order_release);
        from += run;
        count -= run;
    }
}

// At least one byte and at most `count`; 0 at the end of the stream.
static size_t take(struct end *end, char *to, size_t count) {
    while (end->theirs == end->mine) {
        int ended = atomic_load_explicit(&end->ring->ended, memory_order_acquire);
        end->theirs = atomic_load_explicit(&end->ring->produced, memory_order_acquire);
        if (end->theirs != end->mine) break;
        if (ended) return 0;
        relax();
    }
    size_t at = end->mine & (end->capacity - 1);
    size_t run = smaller(smaller(count, end->capacity - at), end->theirs - end->mine);
    memcpy(to, end->ring->bytes + at, run);
    end->mine += run;
    atomic_store_explicit(&end->ring->consumed, end->mine, memory_order_release);
    return run;
}

static int take_all(struct end *end, char *to, size_t count) {
    for (size_t have = 0, got; have < count; have += got)
        if ((got = take(end, to + have, count - have)) == 0) return 0;
    return 1;
}

// 1 in the parent, 0 in the child, which does not outlive it. Each has a processor of its own: two that spin and
// never sleep could otherwise take turns on one, and nothing would move them apart.
static int two_processes(void) {
    pid_t child = fork();
    if (child < 0) stop("fork");
    if (child == 0) prctl(PR_SET_PDEATHSIG, SIGKILL);
    cpu_set_t allowed, own;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) stop("sched_getaffinity");
    CPU_ZERO(&own);
    for (int cpu = 0, skip = child == 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || skip-- > 0) continue;
        CPU_SET(cpu, &own);
        if (sched_setaffinity(0, sizeof own, &own)) stop("sched_setaffinity");
        break;
    }
    return child != 0;
}

static void round_trips(long trips, size_t size) {
    enum { capacity = 64 << 10 };
    struct end there = {make(capacity), capacity, 0, 0}, back = {make(capacity), capacity, 0, 0};
    char *bytes = calloc(1, size);
    uint64_t *times = calloc((size_t)trips, sizeof *times);
    if (!bytes || !times) stop("calloc");
    if (!two_processes()) {
        while (take_all(&there, bytes, size)) put(&back, bytes, size);
        _exit(0);
    }
    for (int i = 0; i < 1000; i++) put(&there, bytes, size), take_all(&back, bytes, size);
    for (long i = 0; i < trips; i++) {
        uint64_t begun = nanoseconds();
        put(&there, bytes, size);
        take_all(&back, bytes, size);
        times[i] = nanoseconds() - begun;
    }
    atomic_store(&there.ring->ended, 1);
    qsort(times, (size_t)trips, sizeof *times, compare_numbers);
    printf("%lu\n", (unsigned long)times[trips / 2]);
}

static void stream(long milliseconds, size_t size, size_t capacity) {
    struct end end = {make(capacity), capacity, 0, 0};
    char *bytes = calloc(1, size);
    if (!bytes) stop("calloc");
    memset(bytes, 1, size);
    uint64_t begun = nanoseconds();
    if (two_processes()) {
        while ((double)(nanoseconds() - begun) < (double)milliseconds * 1e6) put(&end, bytes, size);
        atomic_store(&end.ring->ended, 1);
        while (atomic_load(&end.ring->consumed) != end.mine) relax();
        printf("%.0f\n", (double)end.mine * 8e9 / (double)(nanoseconds() - begun));
    } else {
        while (take(&end, bytes, size)) {}
        _exit(0);
    }
}

int main(int count, char **arguments) {
    const char *usage = "rtt COUNT SIZE | stream MILLISECONDS SIZE CAPACITY (a power of two)";
    if (count > 1 && strcmp(arguments[1], "rtt") == 0) {
        round_trips(number(count, arguments, 2, usage), (size_t)number(count, arguments, 3, usage));
    } else {
        long capacity = number(count, arguments, 4, usage);
        if (capacity & (capacity - 1)) stop("capacity");
        stream(number(count, arguments, 2, usage), (size_t)number(count, arguments, 3, usage), (size_t)capacity);
    }
    return 0;
}
