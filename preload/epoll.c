/* Waiting on sets that the kernel keeps. */
#include "switch.h"

int epoll_ctl(int set, int operation, int fd, struct epoll_event *event) { return switch_epoll_ctl(set, operation, fd, event); }
int epoll_wait(int set, struct epoll_event *events, int count, int timeout) { return switch_epoll_wait(set, events, count, timeout); }
int epoll_pwait(int set, struct epoll_event *events, int count, int timeout, const sigset_t *mask) {
    return switch_epoll_pwait(set, events, count, timeout, mask);
}
int epoll_pwait2(int set, struct epoll_event *events, int count, const struct timespec *timeout, const sigset_t *mask) {
    return switch_epoll_pwait2(set, events, count, timeout, mask);
}
