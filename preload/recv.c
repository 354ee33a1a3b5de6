/* Calls that take bytes off a stream, with the names fortified programs bind to (_FORTIFY_SOURCE). */
#include "switch.h"

extern void __chk_fail(void) __attribute__((noreturn));

ssize_t recv(int fd, void *buffer, size_t length, int flags) { return switch_recv(fd, buffer, length, flags); }
ssize_t recvfrom(int fd, void *buffer, size_t length, int flags, struct sockaddr *address, socklen_t *size) {
    return switch_recvfrom(fd, buffer, length, flags, address, size);
}
ssize_t recvmsg(int fd, struct msghdr *message, int flags) { return switch_recvmsg(fd, message, flags); }
int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout) {
    return switch_recvmmsg(fd, messages, count, flags, timeout);
}
ssize_t read(int fd, void *buffer, size_t length) { return switch_read(fd, buffer, length); }
ssize_t __read(int fd, void *buffer, size_t length) { return switch_read(fd, buffer, length); }
ssize_t readv(int fd, const struct iovec *vectors, int count) { return switch_readv(fd, vectors, count); }
ssize_t preadv2(int fd, const struct iovec *vectors, int count, off_t offset, int flags) { return switch_preadv2(fd, vectors, count, offset, flags); }
ssize_t preadv64v2(int fd, const struct iovec *vectors, int count, off64_t offset, int flags) { return switch_preadv2(fd, vectors, count, offset, flags); }

ssize_t __recv_chk(int fd, void *buffer, size_t length, size_t size, int flags) {
    if (length > size) __chk_fail();
    return switch_recv(fd, buffer, length, flags);
}
ssize_t __recvfrom_chk(int fd, void *buffer, size_t length, size_t size, int flags, struct sockaddr *address, socklen_t *address_size) {
    if (length > size) __chk_fail();
    return switch_recvfrom(fd, buffer, length, flags, address, address_size);
}
ssize_t __read_chk(int fd, void *buffer, size_t length, size_t size) {
    if (length > size) __chk_fail();
    return switch_read(fd, buffer, length);
}
