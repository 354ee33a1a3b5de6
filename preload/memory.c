/* Calls that take memory away or its permissions: the switch remembers which of the program's pages it may touch. */
#include "switch.h"
#include <sys/shm.h>

int munmap(void *address, size_t length) {
    switch_memory_changes();
    return real_munmap(address, length);
}
int mprotect(void *address, size_t length, int protection) {
    switch_memory_changes();
    return real_mprotect(address, length, protection);
}
void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (flags & MAP_FIXED) switch_memory_changes();
    return real_mmap(address, length, protection, flags, fd, offset);
}
void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset) {
    if (flags & MAP_FIXED) switch_memory_changes();
    return real_mmap(address, length, protection, flags, fd, offset);
}
void *mremap(void *address, size_t old_length, size_t length, int flags, ...) {
    va_list list;
    va_start(list, flags);
    void *target = va_arg(list, void *);
    va_end(list);
    switch_memory_changes();
    return real_mremap(address, old_length, length, flags, target);
}
int shmdt(const void *address) {
    switch_memory_changes();
    return real_shmdt(address);
}
