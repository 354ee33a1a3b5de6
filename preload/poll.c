/* Waiting on sets that the caller passes each time. */
#include "switch.h"

extern void __chk_fail(void) __attribute__((noreturn));

int poll(struct pollfd *entries, nfds_t count, int timeout) { return switch_poll(entries, count, timeout); }
int __poll(struct pollfd *entries, nfds_t count, int timeout) { return switch_poll(entries, count, timeout); }
int ppoll(struct pollfd *entries, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
    return switch_ppoll(entries, count, timeout, mask);
}
int __poll_chk(struct pollfd *entries, nfds_t count, int timeout, size_t size) {
    if (size / sizeof *entries < count) __chk_fail();
    return switch_poll(entries, count, timeout);
}
int __ppoll_chk(struct pollfd *entries, nfds_t count, const struct timespec *timeout, const sigset_t *mask, size_t size) {
    if (size / sizeof *entries < count) __chk_fail();
    return switch_ppoll(entries, count, timeout, mask);
}
int select(int count, fd_set *reads, fd_set *writes, fd_set *excepts, struct timeval *timeout) {
    return switch_select(count, reads, writes, excepts, timeout);
}
int __select(int count, fd_set *reads, fd_set *writes, fd_set *excepts, struct timeval *timeout) {
    return switch_select(count, reads, writes, excepts, timeout);
}
int pselect(int count, fd_set *reads, fd_set *writes, fd_set *excepts, const struct timespec *timeout, const sigset_t *mask) {
    return switch_pselect(count, reads, writes, excepts, timeout, mask);
}
