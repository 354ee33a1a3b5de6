/* Calls that put bytes on a stream. */
#include "switch.h"

ssize_t send(int fd, const void *buffer, size_t length, int flags) { return switch_send(fd, buffer, length, flags); }
ssize_t __send(int fd, const void *buffer, size_t length, int flags) { return switch_send(fd, buffer, length, flags); }
ssize_t sendto(int fd, const void *buffer, size_t length, int flags, const struct sockaddr *address, socklen_t size) {
    return switch_sendto(fd, buffer, length, flags, address, size);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) { return switch_sendmsg(fd, message, flags); }
int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) { return switch_sendmmsg(fd, messages, count, flags); }
int __sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) { return switch_sendmmsg(fd, messages, count, flags); }
ssize_t write(int fd, const void *buffer, size_t length) { return switch_write(fd, buffer, length); }
ssize_t __write(int fd, const void *buffer, size_t length) { return switch_write(fd, buffer, length); }
ssize_t writev(int fd, const struct iovec *vectors, int count) { return switch_writev(fd, vectors, count); }
ssize_t pwritev2(int fd, const struct iovec *vectors, int count, off_t offset, int flags) { return switch_pwritev2(fd, vectors, count, offset, flags); }
ssize_t pwritev64v2(int fd, const struct iovec *vectors, int count, off64_t offset, int flags) { return switch_pwritev2(fd, vectors, count, offset, flags); }
ssize_t sendfile(int out, int in, off_t *offset, size_t length) { return switch_sendfile(out, in, offset, length); }
ssize_t sendfile64(int out, int in, off64_t *offset, size_t length) { return switch_sendfile(out, in, offset, length); }
ssize_t splice(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length, unsigned flags) {
    return switch_splice(in, in_offset, out, out_offset, length, flags);
}
