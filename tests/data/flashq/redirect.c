/* Sends connections to port 6789 of this machine, which the published client's tests and examples
 * have written into them, to port FLASHQ_PORT. To be preloaded. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    int (*next)(int, const struct sockaddr *, socklen_t);
    *(void **)&next = dlsym(RTLD_NEXT, "connect");
    const char *port = getenv("FLASHQ_PORT");
    if (port != NULL && address->sa_family == AF_INET) {
        struct sockaddr_in there;
        memcpy(&there, address, sizeof there);
        if (there.sin_port == htons(6789)) {
            there.sin_port = htons((uint16_t)atoi(port));
            return next(fd, (const struct sockaddr *)&there, sizeof there);
        }
    }
    if (port != NULL && address->sa_family == AF_INET6) {
        struct sockaddr_in6 there;
        memcpy(&there, address, sizeof there);
        /* Nodes of the tests listen on 127.0.0.1, which the client tries next. */
        if (there.sin6_port == htons(6789)) {
            errno = ECONNREFUSED;
            return -1;
        }
    }
    return next(fd, address, length);
}
