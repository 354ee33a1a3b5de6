/* Creating and naming sockets. Each entry forwards, and nothing else. */
#include "switch.h"

int socket(int domain, int type, int protocol) { return switch_socket(domain, type, protocol); }
int bind(int fd, const struct sockaddr *address, socklen_t length) { return switch_bind(fd, address, length); }
int listen(int fd, int backlog) { return switch_listen(fd, backlog); }
int accept(int fd, struct sockaddr *address, socklen_t *length) { return switch_accept(fd, address, length); }
int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) { return switch_accept4(fd, address, length, flags); }
int connect(int fd, const struct sockaddr *address, socklen_t length) { return switch_connect(fd, address, length); }
int __connect(int fd, const struct sockaddr *address, socklen_t length) { return switch_connect(fd, address, length); }
int shutdown(int fd, int how) { return switch_shutdown(fd, how); }
int getsockopt(int fd, int level, int name, void *value, socklen_t *length) { return switch_getsockopt(fd, level, name, value, length); }
int setsockopt(int fd, int level, int name, const void *value, socklen_t length) { return switch_setsockopt(fd, level, name, value, length); }
