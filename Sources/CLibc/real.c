#include "real.h"
#include <dlfcn.h>

/* A program may be older or newer than a call: what libc lacks answers as the kernel would, ENOSYS. */
static long missing(void) { errno = ENOSYS; return -1; }

static void *next(const char *name) {
    int saved = errno;
    void *symbol = dlsym(RTLD_NEXT, name);
    errno = saved;
    return symbol ? symbol : (void *)missing;
}

#define FIRST(result, name, parameters, arguments) \
    static result first_##name parameters { real_calls.name = (result(*) parameters)next(#name); return real_calls.name arguments; }
REAL_CALLS(FIRST)

#define ENTRY(result, name, parameters, arguments) .name = first_##name,
struct real_calls real_calls = { REAL_CALLS(ENTRY) };
