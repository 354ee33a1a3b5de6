/* Descriptors: closing, copying, controlling. Only the variadic calls unpack. */
#include "switch.h"

int close(int fd) { return switch_close(fd); }
int __close(int fd) { return switch_close(fd); }
int close_range(unsigned first, unsigned last, int flags) { return switch_close_range(first, last, flags); }
void closefrom(int first) { switch_closefrom(first); }
int dup(int fd) { return switch_dup(fd); }
int dup2(int from, int to) { return switch_dup2(from, to); }
int __dup2(int from, int to) { return switch_dup2(from, to); }
int dup3(int from, int to, int flags) { return switch_dup3(from, to, flags); }

#define VARIADIC_ARGUMENT(last) ({ va_list list; va_start(list, last); void *value = va_arg(list, void *); va_end(list); value; })

int fcntl(int fd, int command, ...) { return switch_fcntl(fd, command, VARIADIC_ARGUMENT(command)); }
int fcntl64(int fd, int command, ...) { return switch_fcntl(fd, command, VARIADIC_ARGUMENT(command)); }
int __fcntl(int fd, int command, ...) { return switch_fcntl(fd, command, VARIADIC_ARGUMENT(command)); }
int ioctl(int fd, unsigned long request, ...) { return switch_ioctl(fd, request, VARIADIC_ARGUMENT(request)); }
