/* The contract between preload/ (C, which defines libc's names) and the switch (Swift, which implements these). Each
 * function takes the arguments of the libc call it is named after and behaves as that call's man page says, errno included. */
#ifndef SANSWITCH_SWITCH_H
#define SANSWITCH_SWITCH_H
#include "real.h"

void switch_start(void);
void switch_stop(void);

int switch_socket(int domain, int type, int protocol);
int switch_bind(int fd, const struct sockaddr *address, socklen_t length);
int switch_listen(int fd, int backlog);
int switch_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);
int switch_accept(int fd, struct sockaddr *address, socklen_t *length);
int switch_connect(int fd, const struct sockaddr *address, socklen_t length);
int switch_shutdown(int fd, int how);
int switch_close(int fd);
/* A call has failed with EMFILE. True: descriptors of the switch have made room, call once more. errno is EMFILE after it. */
bool switch_make_room(void);
/* A call has made fd, or a pair: its number as it would be without the switch. -1 stays -1. */
int switch_settle(int fd);
void switch_settle_pair(int fds[2]);
int switch_close_range(unsigned first, unsigned last, int flags);
void switch_closefrom(int first);

ssize_t switch_send(int fd, const void *buffer, size_t length, int flags);
ssize_t switch_sendto(int fd, const void *buffer, size_t length, int flags, const struct sockaddr *address, socklen_t size);
ssize_t switch_sendmsg(int fd, const struct msghdr *message, int flags);
int switch_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
ssize_t switch_write(int fd, const void *buffer, size_t length);
ssize_t switch_writev(int fd, const struct iovec *vectors, int count);
ssize_t switch_pwritev2(int fd, const struct iovec *vectors, int count, off_t offset, int flags);
ssize_t switch_recv(int fd, void *buffer, size_t length, int flags);
ssize_t switch_recvfrom(int fd, void *buffer, size_t length, int flags, struct sockaddr *address, socklen_t *size);
ssize_t switch_recvmsg(int fd, struct msghdr *message, int flags);
int switch_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout);
ssize_t switch_read(int fd, void *buffer, size_t length);
ssize_t switch_readv(int fd, const struct iovec *vectors, int count);
ssize_t switch_preadv2(int fd, const struct iovec *vectors, int count, off_t offset, int flags);
ssize_t switch_sendfile(int out, int in, off_t *offset, size_t length);
ssize_t switch_splice(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length, unsigned flags);

int switch_getsockopt(int fd, int level, int name, void *value, socklen_t *length);
int switch_setsockopt(int fd, int level, int name, const void *value, socklen_t length);
int switch_ioctl(int fd, unsigned long request, void *argument);
int switch_fcntl(int fd, int command, void *argument);
int switch_dup(int fd);
int switch_dup2(int from, int to);
int switch_dup3(int from, int to, int flags);

int switch_poll(struct pollfd *entries, nfds_t count, int timeout);
int switch_ppoll(struct pollfd *entries, nfds_t count, const struct timespec *timeout, const sigset_t *mask);
int switch_select(int count, fd_set *reads, fd_set *writes, fd_set *excepts, struct timeval *timeout);
int switch_pselect(int count, fd_set *reads, fd_set *writes, fd_set *excepts, const struct timespec *timeout, const sigset_t *mask);
int switch_epoll_created(int fd);
int switch_epoll_ctl(int set, int operation, int fd, struct epoll_event *event);
int switch_epoll_wait(int set, struct epoll_event *events, int count, int timeout);
int switch_epoll_pwait(int set, struct epoll_event *events, int count, int timeout, const sigset_t *mask);
int switch_epoll_pwait2(int set, struct epoll_event *events, int count, const struct timespec *timeout, const sigset_t *mask);

void switch_before_exec(void);
void switch_exec_failed(void);
void switch_fork_child(void);
/* A stream is about to be made of fd; bytes of it that only the switch can still read; fd is about to be closed inside libc. */
void switch_before_stdio(int fd);
size_t switch_unread(int fd);
void switch_closed_by_libc(int fd);
/* The program's mappings are about to change: what is known of its memory holds no longer. */
void switch_memory_changes(void);
void switch_fork_prepare(void);
#endif
