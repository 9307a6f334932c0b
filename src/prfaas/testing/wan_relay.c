/* Carries packets between two TUN devices as a wide-area line would: a drop-tail queue that drains
 * at a fixed rate, then a fixed delay; packets are lost at random before the queue.
 *
 *   wan_relay DEVICE_A DEVICE_B DELAY_US RATE_BYTES_PER_S LOSS QUEUE_BYTES SEED
 *
 * Says "ready" once both devices exist (they may then be moved to network namespaces) and runs
 * until it is killed. One thread per direction.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define SLOT_BYTES 9216
#define SLOTS 65536 /* a power of two; 600 MB of address space, touched only as far as used */

typedef int64_t ns_t;

struct direction {
    int in, out;
    ns_t delay;
    double ns_per_byte, loss;
    int64_t queue_bytes;
    uint64_t random;
    char *bytes;
    int lengths[SLOTS];
    ns_t leaves[SLOTS];  /* when the packet has left the queue */
    uint64_t first, end; /* packets [first, end) are queued or on their way */
    ns_t line_free_at;
};

static ns_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (ns_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Marsaglia's xorshift64*, as a number in [0, 1). */
static double chance(struct direction *d) {
    d->random ^= d->random >> 12;
    d->random ^= d->random << 25;
    d->random ^= d->random >> 27;
    return (double)((d->random * 2685821657736338717ULL) >> 11) / 9007199254740992.0;
}

static int open_tun(const char *name) {
    struct ifreq request;
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    memset(&request, 0, sizeof request);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) {
        perror(name);
        exit(1);
    }
    return fd;
}

/* Takes one packet from the device; 0 when there is none. */
static int take(struct direction *d) {
    uint64_t slot = d->end % SLOTS;
    int length = read(d->in, d->bytes + slot * SLOT_BYTES, SLOT_BYTES);
    if (length <= 0)
        return 0;
    ns_t t = now();
    if (d->line_free_at < t)
        d->line_free_at = t;
    double waiting = (double)(d->line_free_at - t) / d->ns_per_byte;
    if (chance(d) < d->loss || waiting > (double)d->queue_bytes || d->end - d->first == SLOTS - 1)
        return 1; /* dropped: the slot is used again */
    d->line_free_at += (ns_t)(length * d->ns_per_byte);
    d->lengths[slot] = length;
    d->leaves[slot] = d->line_free_at;
    d->end++;
    return 1;
}

static void deliver(struct direction *d) {
    ns_t t = now();
    while (d->first < d->end) {
        uint64_t slot = d->first % SLOTS;
        if (d->leaves[slot] + d->delay > t)
            return;
        if (write(d->out, d->bytes + slot * SLOT_BYTES, d->lengths[slot]) < 0 && errno == EAGAIN)
            return;
        d->first++;
    }
}

static void *relay(void *argument) {
    struct direction *d = argument;
    for (;;) {
        struct pollfd input = {.fd = d->in, .events = POLLIN};
        struct timespec wait = {.tv_sec = 1};
        if (d->first < d->end) {
            ns_t left = d->leaves[d->first % SLOTS] + d->delay - now();
            if (left < 0)
                left = 0;
            wait.tv_sec = left / 1000000000;
            wait.tv_nsec = left % 1000000000;
        }
        ppoll(&input, 1, &wait, NULL);
        for (int burst = 0; burst < 64 && take(d); burst++)
            ;
        deliver(d);
    }
    return NULL;
}

static pthread_t start(int in, int out, char **arguments, uint64_t salt) {
    struct direction *d = calloc(1, sizeof *d);
    pthread_t thread;
    d->in = in;
    d->out = out;
    d->delay = atoll(arguments[0]) * 1000;
    d->ns_per_byte = 1e9 / atof(arguments[1]);
    d->loss = atof(arguments[2]);
    d->queue_bytes = atoll(arguments[3]);
    d->random = (strtoull(arguments[4], NULL, 10) + salt) * 0x9E3779B97F4A7C15ULL + 1;
    d->bytes = malloc((size_t)SLOTS * SLOT_BYTES);
    if (d->bytes == NULL || pthread_create(&thread, NULL, relay, d) != 0)
        exit(1);
    return thread;
}

int main(int count, char **arguments) {
    if (count != 8) {
        fprintf(stderr, "usage: %s A B DELAY_US RATE LOSS QUEUE_BYTES SEED\n", arguments[0]);
        return 2;
    }
    int a = open_tun(arguments[1]), b = open_tun(arguments[2]);
    pthread_t there = start(a, b, arguments + 3, 1);
    start(b, a, arguments + 3, 2);
    puts("ready");
    fflush(stdout);
    pthread_join(there, NULL);
    return 0;
}
