/* The message benchmarks on OTP's C interface, for both ends:
 *
 *   ei_bench serve NAME COOKIE          be a node with the processes echo, sink, flood and bulk
 *   ei_bench play NAME COOKIE PEER      do what standard input says, print microseconds
 *
 * Blocking calls, one thread, one connection at a time: what a program in C gets without effort.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <ei.h>

static ei_cnode node;
static erlang_pid self;

static void die(const char *what)
{
    fprintf(stderr, "ei_bench: %s failed, erl_errno %d\n", what, erl_errno);
    exit(1);
}

static double now_us(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}

static void be(const char *name, const char *cookie)
{
    struct in_addr loopback = {.s_addr = htonl(INADDR_LOOPBACK)};
    char full[256], alive[256];
    snprintf(full, sizeof full, "%s", name);
    snprintf(alive, sizeof alive, "%.*s", (int)strcspn(name, "@"), name);
    ei_init();
    if (ei_connect_xinit(&node, "127.0.0.1", alive, full, &loopback, cookie, (short)getpid()) < 0)
        die("ei_connect_xinit");
    self = *ei_self(&node);
}

/* The next message, in x; ticks are answered by the library. -1: the connection is gone. */
static int receive(int fd, erlang_msg *msg, ei_x_buff *x)
{
    for (;;) {
        x->index = 0;
        int got = ei_xreceive_msg(fd, msg, x);
        if (got == ERL_MSG)
            return 0;
        if (got == ERL_ERROR)
            return -1;
    }
}

static void walk(const char *buffer)
{
    int at = 0, version;
    if (ei_decode_version(buffer, &at, &version) < 0 || ei_skip_term(buffer, &at) < 0)
        die("decoding");
}

/* Messages: {From, Payload} to echo, {From, Size} or {From, Binary} to bulk, {From, Count, Term} to
 * flood, {total, From} or anything else to sink. */
static void serve_one(int fd)
{
    erlang_msg msg;
    ei_x_buff x, y;
    long count = 0;
    ei_x_new(&x);
    ei_x_new(&y);
    while (receive(fd, &msg, &x) == 0) {
        int at = 0, version, arity, type, size;
        char atom[MAXATOMLEN];
        erlang_pid from;
        ei_decode_version(x.buff, &at, &version);
        y.index = 0;
        if (strcmp(msg.toname, "sink") == 0) {
            if (ei_decode_tuple_header(x.buff, &at, &arity) == 0 && arity == 2 &&
                ei_decode_atom(x.buff, &at, atom) == 0 && strcmp(atom, "total") == 0) {
                ei_decode_pid(x.buff, &at, &from);
                ei_x_format(&y, "{total, ~l}", count);
                ei_send(fd, &from, y.buff, y.index);
                count = 0;
            } else {
                walk(x.buff);
                count++;
            }
            continue;
        }
        if (ei_decode_tuple_header(x.buff, &at, &arity) < 0 ||
            ei_decode_pid(x.buff, &at, &from) < 0)
            die("decoding a request");
        if (strcmp(msg.toname, "echo") == 0) {
            ei_send(fd, &from, x.buff, x.index);
        } else if (strcmp(msg.toname, "flood") == 0) {
            long times;
            ei_decode_long(x.buff, &at, &times);
            ei_x_encode_version(&y);
            ei_x_append_buf(&y, x.buff + at, x.index - at);
            while (times-- > 0)
                ei_send(fd, &from, y.buff, y.index);
        } else if (strcmp(msg.toname, "bulk") == 0) {
            ei_get_type(x.buff, &at, &type, &size);
            if (type == ERL_BINARY_EXT) {
                ei_x_format(&y, "got");
            } else {
                long wanted;
                ei_decode_long(x.buff, &at, &wanted);
                char *zeros = calloc(1, wanted);
                ei_x_encode_version(&y);
                ei_x_encode_binary(&y, zeros, wanted);
                free(zeros);
            }
            ei_send(fd, &from, y.buff, y.index);
        }
    }
    ei_x_free(&x);
    ei_x_free(&y);
    close(fd);
}

static void serve(void)
{
    int port = 0;
    int listening = ei_listen(&node, &port, 5);
    if (listening < 0)
        die("ei_listen");
    if (ei_publish(&node, port) < 0)
        die("ei_publish");
    printf("ready 0\n");
    fflush(stdout);
    for (;;) {
        ErlConnect peer;
        int fd = ei_accept(&node, listening, &peer);
        if (fd >= 0)
            serve_one(fd);
    }
}

static int dial(char *peer)
{
    int fd = ei_connect(&node, peer);
    if (fd < 0)
        die("ei_connect");
    return fd;
}

static void encode_request(ei_x_buff *x, int arity)
{
    x->index = 0;
    ei_x_encode_version(x);
    ei_x_encode_tuple_header(x, arity);
    ei_x_encode_pid(x, &self);
}

/* {event, 17, #{kind => up, value => 42}} */
static void encode_small(ei_x_buff *x)
{
    ei_x_encode_tuple_header(x, 3);
    ei_x_encode_atom(x, "event");
    ei_x_encode_long(x, 17);
    ei_x_encode_map_header(x, 2);
    ei_x_encode_atom(x, "kind");
    ei_x_encode_atom(x, "up");
    ei_x_encode_atom(x, "value");
    ei_x_encode_long(x, 42);
}

static void play(char *peer)
{
    char word[32];
    long first, second;
    erlang_msg msg;
    ei_x_buff x, y;
    int fd = dial(peer);
    ei_x_new(&x);
    ei_x_new(&y);
    printf("ready 0\n");
    fflush(stdout);
    while (scanf("%31s %ld %ld", word, &first, &second) == 3) {
        double began = now_us();
        if (strcmp(word, "connect") == 0) {
            close(fd);
            usleep(10000); /* the peer accepts one at a time */
            began = now_us();
            fd = dial(peer);
            printf("%.1f", now_us() - began);
        } else if (strcmp(word, "trips") == 0) {
            char *payload = calloc(1, first);
            for (long i = 0; i < second; i++) {
                began = now_us();
                encode_request(&y, 2);
                ei_x_encode_binary(&y, payload, first);
                ei_reg_send(&node, fd, "echo", y.buff, y.index);
                if (receive(fd, &msg, &x) < 0)
                    die("receiving");
                walk(x.buff);
                printf(i ? " %.1f" : "%.1f", now_us() - began);
            }
            free(payload);
        } else if (strcmp(word, "out") == 0) {
            for (long i = 0; i < first; i++) {
                y.index = 0;
                ei_x_encode_version(&y);
                encode_small(&y);
                ei_reg_send(&node, fd, "sink", y.buff, y.index);
            }
            printf("%.1f", now_us() - began);
            y.index = 0;
            ei_x_encode_version(&y);
            ei_x_encode_tuple_header(&y, 2);
            ei_x_encode_atom(&y, "total");
            ei_x_encode_pid(&y, &self);
            ei_reg_send(&node, fd, "sink", y.buff, y.index);
            if (receive(fd, &msg, &x) < 0)
                die("receiving");
        } else if (strcmp(word, "into") == 0) {
            encode_request(&y, 3);
            ei_x_encode_long(&y, first);
            encode_small(&y);
            ei_reg_send(&node, fd, "flood", y.buff, y.index);
            for (long i = 0; i < first; i++) {
                if (receive(fd, &msg, &x) < 0)
                    die("receiving");
                walk(x.buff);
            }
            printf("%.1f", now_us() - began);
        } else { /* bulk_out, bulk_in */
            char *payload = calloc(1, first);
            memset(payload, 1, first);
            began = now_us();
            encode_request(&y, 2);
            if (strcmp(word, "bulk_out") == 0)
                ei_x_encode_binary(&y, payload, first);
            else
                ei_x_encode_long(&y, first);
            ei_reg_send(&node, fd, "bulk", y.buff, y.index);
            if (receive(fd, &msg, &x) < 0)
                die("receiving");
            printf("%.1f", now_us() - began);
            free(payload);
        }
        printf("\n");
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    be(argv[2], argv[3]);
    if (strcmp(argv[1], "serve") == 0)
        serve();
    else
        play(argv[4]);
    return 0;
}
