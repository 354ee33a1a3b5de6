// Round trips over one TCP connection, both ends blocking, each timed as sockperf does.
// usage: pingpong PORT MILLISECONDS SIZE        prints the median and the 99th percentile in nanoseconds
#include "common.h"

int main(int count, char **arguments) {
    const char *usage = "PORT MILLISECONDS SIZE";
    long port = number(count, arguments, 1, usage), milliseconds = number(count, arguments, 2, usage);
    size_t size = (size_t)number(count, arguments, 3, usage);
    char *bytes = calloc(1, size);
    // Room for one every 100 ns; pages that are not needed are never touched.
    size_t room = (size_t)milliseconds * 10000, trips = 0;
    uint64_t *times = calloc(room, sizeof *times);
    if (!bytes || !times) stop("calloc");
    int fd = connect_to(port);
    send_at_once(fd);
    // Past the start of the connection, whatever its path will be.
    for (int i = 0; i < 1000; i++) ask(fd, bytes, size);
    for (uint64_t begun, end = nanoseconds() + (uint64_t)milliseconds * 1000000; (begun = nanoseconds()) < end && trips < room;) {
        ask(fd, bytes, size);
        times[trips++] = nanoseconds() - begun;
    }
    close(fd);
    qsort(times, trips, sizeof *times, compare_numbers);
    printf("%lu %lu\n", (unsigned long)times[trips / 2], (unsigned long)times[trips * 99 / 100]);
    return 0;
}
