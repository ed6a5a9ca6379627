/* A QEMU plugin: counts the instructions that an emulated program executes, and writes the count wherever the program
 * asks for it by a mark.
 *
 *     gcc -O2 -shared -fPIC -DPLUGIN_VERSION=1 count_instructions.c -o count_instructions.so
 *     qemu-aarch64 -plugin count_instructions.so,out=counts.txt PROGRAM
 *
 * A mark is close(FIRST_MARK + n), a file number that nobody has: the program sees EBADF and goes on. The file gets a
 * line "mark n COUNT" for each and "exit COUNT" at the end, COUNT being everything executed so far on all threads.
 *
 * Counted are the instructions of the emulated processor, block by block as a block is entered; one that a signal or
 * a fault interrupts counts whole. Each thread has its own counter, so that none is lost.
 *
 * Declared here is the part of QEMU's plugin interface that is used; it is the same in all versions of the interface
 * so far, whose number each QEMU compares with what the plugin says (1 for QEMU before 9.0, 2 since).
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION 1
#endif
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
typedef struct plugin_information plugin_information; /* not read */
struct qemu_plugin_tb;
enum registers { NO_REGISTERS };

typedef void (*on_translated)(plugin_id, struct qemu_plugin_tb *);
typedef void (*on_entered)(unsigned int thread, void *data);
typedef void (*on_exit)(plugin_id, void *data);
typedef void (*on_call)(plugin_id, unsigned int thread, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                        uint64_t, uint64_t, uint64_t);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_translated);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, on_entered, enum registers, void *data);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_call);
void qemu_plugin_register_atexit_cb(plugin_id, on_exit, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

EXPORT int qemu_plugin_version = PLUGIN_VERSION;

enum {
    THREADS = 1024,          /* counters; threads beyond share one */
    CLOSE = 57,              /* the number of close() on 64-bit Arm */
    FIRST_MARK = 0x7e500000, /* file numbers are far below */
    MARKS = 0x10000
};

static struct {
    uint64_t executed;
    char apart[56]; /* a cache line each */
} counters[THREADS];
static FILE *out;

static uint64_t total(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < THREADS; i++) {
        sum += counters[i].executed;
    }
    return sum;
}

static void entered(unsigned int thread, void *instructions)
{
    counters[thread < THREADS ? thread : THREADS - 1].executed += (uintptr_t)instructions;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, entered, NO_REGISTERS, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void called(plugin_id id, unsigned int thread, int64_t number, uint64_t file, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    (void)id, (void)thread, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    uint32_t mark = (uint32_t)file - FIRST_MARK;
    if (number == CLOSE && mark < MARKS) {
        fprintf(out, "mark %" PRIu32 " %" PRIu64 "\n", mark, total());
        fflush(out);
    }
}

static void at_exit(plugin_id id, void *data)
{
    (void)id, (void)data;
    fprintf(out, "exit %" PRIu64 "\n", total());
    fflush(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const plugin_information *information, int argc, char **argv)
{
    (void)information;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0 && out == NULL) {
            out = fopen(argv[i] + 4, "w");
        }
    }
    if (out == NULL) {
        fprintf(stderr, "count_instructions: give out=FILE, a file that can be written\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
