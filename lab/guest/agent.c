/*
 * The program inside the lab's guest. It dirties memory and disk in ways that one lost or stale page is found and
 * named, answers echo connections, and says how fast it ran.
 *
 * Why C: the guest is an initramfs that boots in about two seconds under TCG. A static C program is one megabyte,
 * needs no runtime, allocates nothing behind our back (every page it owns is a page it stamps) and costs the emulated
 * CPU so little that the measured guest is the guest and not a garbage collector.
 *
 * How a page is judged. Working-set pages are written in order, round and round; a page carries its number, the lap
 * that wrote it and a link of a hash chain through the page written before it. Everything else in the page follows
 * from (page, lap, pattern). So at any instant exactly one edge exists: pages before the cursor belong to this lap,
 * the others to the one before. A page from another lap is stale, a page whose bytes do not follow from its stamp is
 * damaged, and a set of pages rolled back together breaks the chain. A rollback of all memory at once cannot be seen
 * from inside; the client outside remembers `pagesWritten` for that. The static region is seeded once and never
 * written again. The disk's stamp file obeys the same law, through O_DIRECT and fdatasync.
 *
 * Ports: 7 TCP and UDP echo; 7070 control, one command a line, one JSON object a line back:
 *   status | set [pattern=idle|counters|text|incompressible] [rate=BYTES] [size=BYTES] [diskrate=WRITES]
 *   verify memory | verify disk | stats [slots=N] [reset=1] | files | damage page=N kind=stale|content|static
 *   walk size=BYTES rate=TOUCHES | touches [reset=1] | build
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, HEADER_WORDS = 8, WORDS = PAGE / 8 - HEADER_WORDS };
enum { ECHO_PORT = 7, CONTROL_PORT = 7070 };
enum { SLOT_MS = 10, SLOTS = 12000, BEAT_MS = 5 };
enum pattern { IDLE, COUNTERS, TEXT, INCOMPRESSIBLE, STATIC, PATTERNS };

static const char *const pattern_names[PATTERNS] = { "idle", "counters", "text", "incompressible", "static" };
static const uint64_t MAGIC = 0x474f445749543031; /* "GODWIT01" */

struct page {
    uint64_t magic, number, lap, pattern, chain, hash, writtenNs, reserved;
    uint64_t words[WORDS];
};

/* One region under the law above. `chain` is the newest page's link. */
struct region {
    struct page *pages;
    uint64_t count, cursor, lap, chain, written;
};

static struct region memory, disk;
static struct page *still;             /* the static region */
static uint64_t still_count = 4096;    /* 16 MiB */
static int disk_file = -1;
static const char *disk_root = "/disk";

static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER, disk_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int memory_wanted, disk_wanted; /* a writer at full speed would never let a verifier in otherwise */
static _Atomic enum pattern pattern = IDLE;
static _Atomic uint64_t rate = 8 << 20, disk_rate = 20;

static atomic_uint page_slots[SLOTS], beat_slots[SLOTS];
static _Atomic uint64_t longest_gap_ns, longest_gap_at_ns, echo_messages, echo_opened, echo_closed;

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static void sleep_until(uint64_t ns)
{
    struct timespec t = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) { }
}

static void start(void *(*work)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 256 << 10);
    if (pthread_create(&thread, &attributes, work, argument) != 0) {
        perror("agent: thread");
        exit(1);
    }
    pthread_attr_destroy(&attributes);
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30; x *= 0xbf58476d1ce4e5b9;
    x ^= x >> 27; x *= 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

/* ---- Contents: every word of a page follows from its number, lap and pattern -------------------------------- */

static const char dictionary[64][9] = {
    "the     ", "page    ", "memory, ", "dirty   ", "source  ", "guest.\n ", "round   ", "written ",
    "machine ", "network ", "address ", "because ", "between ", "another ", "without ", "through ",
    "during  ", "before  ", "after,  ", "while   ", "kernel  ", "process ", "thread  ", "counter ",
    "journal ", "storage ", "segment ", "channel ", "message ", "request ", "answer. ", "timeout ",
    "0000001 ", "0000010 ", "0000100 ", "0001000 ", "INFO    ", "DEBUG   ", "WARNING ", "ERROR:  ",
    "value = ", "key = \" ", "\",\n     ", "{ id:   ", "} end;\n ", "return  ", "static  ", "struct  ",
    "integer ", "boolean ", "string  ", "length  ", "offset  ", "buffer  ", "pointer ", "handle  ",
    "and     ", "or      ", "of a    ", "in its  ", "is not  ", "has one ", "for all ", "with no ",
};

static uint64_t word_of(enum pattern kind, uint64_t number, uint64_t lap, int i)
{
    switch (kind) {
    case COUNTERS:
        /* A page of seeded bytes in which eight counters move: what a delta coder hopes for. */
        return i % (WORDS / 8) == 0 ? lap + (uint64_t)i : mix(number * WORDS + (uint64_t)i);
    case TEXT: {
        uint64_t w;
        memcpy(&w, dictionary[mix((number << 20) + (lap << 44) + (uint64_t)i) & 63], 8);
        return w;
    }
    default:
        return mix((number << 9 ^ lap << 40 ^ (uint64_t)kind << 36) + (uint64_t)i);
    }
}

static uint64_t stamp_hash(const struct page *p)
{
    return mix(p->number ^ mix(p->lap ^ mix(p->pattern ^ mix(p->chain ^ p->writtenNs))));
}

static void stamp(struct page *p, uint64_t number, uint64_t lap, enum pattern kind, uint64_t previous)
{
    /* In a counters page only the counters move; the rest is there already if the page was one before. */
    int step = kind == COUNTERS && p->magic == MAGIC && p->pattern == COUNTERS && p->number == number ? WORDS / 8 : 1;
    for (int i = 0; i < WORDS; i += step) {
        p->words[i] = word_of(kind, number, lap, i);
    }
    p->magic = MAGIC;
    p->number = number;
    p->lap = lap;
    p->pattern = kind;
    p->chain = mix(previous ^ mix(number ^ mix(lap ^ kind)));
    p->writtenNs = now_ns();
    p->reserved = 0;
    p->hash = stamp_hash(p);
}

/* What is wrong with a page, or NULL. */
static const char *judge(const struct page *p, uint64_t number, uint64_t lap)
{
    if (p->magic != MAGIC) {
        for (int i = 0; i < PAGE / 8; i++) {
            if (((const uint64_t *)p)[i] != 0) { return "no stamp"; }
        }
        return "all zero";
    }
    if (p->number != number) { return "another page's content"; }
    if (p->hash != stamp_hash(p)) { return "damaged stamp"; }
    if (p->lap != lap) { return p->lap < lap ? "stale" : "newer than the writer"; }
    if (p->pattern >= PATTERNS) { return "damaged stamp"; }
    for (int i = 0; i < WORDS; i++) {
        if (p->words[i] != word_of((enum pattern)p->pattern, number, lap, i)) { return "damaged content"; }
    }
    return NULL;
}

/* ---- Text answers -------------------------------------------------------------------------------------------- */

struct text { char *at; size_t used, size; };

__attribute__((format(printf, 2, 3))) static void say(struct text *t, const char *format, ...)
{
    va_list list;
    for (;;) {
        va_start(list, format);
        int n = vsnprintf(t->at + t->used, t->size - t->used, format, list);
        va_end(list);
        if (n < 0) { return; }
        if (t->used + (size_t)n < t->size) { t->used += (size_t)n; return; }
        t->size = t->size * 2 + (size_t)n;
        t->at = realloc(t->at, t->size);
        if (!t->at) { abort(); }
    }
}

struct verdict { uint64_t checked, wrong; struct text list; };

static void blame(struct verdict *v, const char *where, const struct page *p, uint64_t number, uint64_t lap,
    const char *why)
{
    if (v->wrong++ >= 8) { return; }
    say(&v->list, "%s{\"region\":\"%s\",\"page\":%llu,\"expectedLap\":%llu,\"foundLap\":%llu,\"foundPage\":%llu,"
        "\"why\":\"%s\"}", v->wrong > 1 ? "," : "", where, (unsigned long long)number, (unsigned long long)lap,
        (unsigned long long)p->lap, (unsigned long long)p->number, why);
}

/* The region's law, page by page. `read` fetches one page (memory: in place; disk: from the device). */
static void verify_region(struct verdict *v, const struct region *r, const char *where,
    const struct page *(*read)(uint64_t))
{
    uint64_t previous = 0;
    int linked = 0; /* the page before is right, so this one's link can be judged by it and no second page is blamed */
    for (uint64_t i = 0; i < r->count; i++) {
        const struct page *p = read(i);
        uint64_t lap = i < r->cursor ? r->lap : r->lap - 1;
        const char *why = judge(p, i, lap);
        /* The oldest page's predecessor has been overwritten since, and page 0's is checked after the loop. */
        if (!why && linked && i != r->cursor && p->chain != mix(previous ^ mix(i ^ mix(lap ^ p->pattern)))) {
            why = "broken chain";
        }
        if (!why && i == (r->cursor ? r->cursor : r->count) - 1 && p->chain != r->chain) { why = "broken chain"; }
        if (why) { blame(v, where, p, i, lap, why); }
        previous = p->chain;
        linked = !why;
        v->checked++;
    }
    const struct page *first = read(0);
    if (r->cursor != 0 && v->wrong == 0) {
        uint64_t link = mix(previous ^ mix(0 ^ mix(r->lap ^ first->pattern)));
        if (first->chain != link) { blame(v, where, first, 0, r->lap, "broken chain"); }
    }
}

/* ---- Memory -------------------------------------------------------------------------------------------------- */

static void *map_pages(uint64_t count)
{
    void *at = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static const struct page *read_memory(uint64_t i) { return &memory.pages[i]; }

/* A new region starts stamped, as if lap 1 had just ended. */
static void stamp_region(struct region *r, enum pattern kind)
{
    r->chain = 0;
    r->lap = 2;
    r->cursor = 0;
    for (uint64_t i = 0; i < r->count; i++) {
        stamp(&r->pages[i], i, 1, kind, r->chain);
        r->chain = r->pages[i].chain;
    }
}

static int resize_memory(uint64_t count)
{
    struct page *pages = map_pages(count);
    if (!pages) { return -1; }
    if (memory.pages) { munmap(memory.pages, memory.count * PAGE); }
    memory.pages = pages;
    memory.count = count;
    stamp_region(&memory, pattern == IDLE ? TEXT : pattern);
    return 0;
}

static void advance(struct region *r, const struct page *written)
{
    r->chain = written->chain;
    r->written++;
    if (++r->cursor == r->count) { r->cursor = 0; r->lap++; }
}

static void *write_memory(void *unused)
{
    (void)unused;
    uint64_t next = now_ns(), owed = 0;
    for (;;) {
        uint64_t slot = next / (SLOT_MS * 1000000u);
        next += SLOT_MS * 1000000u;
        if (pattern != IDLE) {
            uint64_t per_slot = rate * SLOT_MS / 1000;
            owed = owed + per_slot < 1u << 30 ? owed + per_slot : 1u << 30;
            pthread_mutex_lock(&memory_lock);
            while (pattern != IDLE && !memory_wanted && (rate == 0 ? now_ns() < next : owed >= PAGE)) {
                struct page *p = &memory.pages[memory.cursor];
                stamp(p, memory.cursor, memory.lap, pattern, memory.chain);
                advance(&memory, p);
                page_slots[slot % SLOTS]++;
                if (rate != 0) {
                    owed -= PAGE;
                    if (now_ns() > next) { break; }
                }
            }
            pthread_mutex_unlock(&memory_lock);
            if (rate != 0 && owed > per_slot + PAGE) { owed = per_slot; } /* never a burst to catch up */
        }
        page_slots[(slot + 2) % SLOTS] = 0;
        uint64_t now = now_ns();
        if (now > next + 10 * SLOT_MS * 1000000ull) { next = now; }
        if (now < next) { sleep_until(next); } else { sched_yield(); }
    }
    return NULL;
}

/* ---- A walk through memory that nobody writes: how long a page takes that may not have come yet ---------------- */

/* A touch takes well under a microsecond; what takes this long has waited for its page. */
enum { LATE_NS = 100000, LATE_MAX = 1 << 16 };
static volatile uint64_t *walked;
static uint64_t walked_count, late_ns[LATE_MAX];
static _Atomic uint64_t walk_rate, touch_count, late_count;

static void *walk_memory(void *unused)
{
    (void)unused;
    uint64_t next = now_ns(), seed = 1, sum = 0;
    for (;;) {
        next += 1000000000u / walk_rate;
        seed = mix(seed + 0x9e3779b97f4a7c15);
        volatile uint64_t *at = walked + seed % walked_count * (PAGE / 8);
        uint64_t began = now_ns();
        sum += *at;
        uint64_t took = now_ns() - began;
        touch_count++;
        if (took >= LATE_NS && late_count < LATE_MAX) { late_ns[late_count++] = took; }
        uint64_t now = now_ns();
        if (now > next + 100000000u) { next = now; }
        if (now < next) { sleep_until(next); }
    }
    return (void *)(uintptr_t)sum;
}

static int later(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void touches(struct text *out, int reset)
{
    static uint64_t sorted[LATE_MAX];
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    uint64_t count = late_count, sum = 0;
    memcpy(sorted, late_ns, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, later);
    for (uint64_t i = 0; i < count; i++) { sum += sorted[i]; }
    say(out, "{\"touches\":%llu,\"late\":%llu,\"lateMeanMs\":%.3f,\"lateP99Ms\":%.3f,\"lateMaxMs\":%.3f}",
        (unsigned long long)touch_count, (unsigned long long)count, count ? (double)sum / (double)count / 1e6 : 0,
        count ? (double)sorted[count * 99 / 100] / 1e6 : 0, count ? (double)sorted[count - 1] / 1e6 : 0);
    if (reset) { touch_count = 0; late_count = 0; }
    pthread_mutex_unlock(&lock);
}

/* ---- Disk ---------------------------------------------------------------------------------------------------- */

static struct page *disk_buffer; /* one aligned page, under disk_lock */

static const struct page *read_disk(uint64_t i)
{
    if (pread(disk_file, disk_buffer, PAGE, (off_t)(i * PAGE)) != PAGE) { memset(disk_buffer, 0, PAGE); }
    return disk_buffer;
}

static int open_disk(void)
{
    char path[256];
    snprintf(path, sizeof path, "%s/stamps", disk_root);
    disk_file = open(path, O_RDWR | O_DIRECT);
    struct stat s;
    if (disk_file < 0 || fstat(disk_file, &s) < 0 || s.st_size < PAGE) { return -1; }
    disk.count = (uint64_t)s.st_size / PAGE;
    disk.pages = map_pages(disk.count);
    disk_buffer = map_pages(1);
    if (!disk.pages || !disk_buffer) { return -1; }
    stamp_region(&disk, TEXT);
    for (uint64_t at = 0; at < disk.count * PAGE;) {
        ssize_t n = pwrite(disk_file, (char *)disk.pages + at, disk.count * PAGE - at, (off_t)at);
        if (n <= 0) { return -1; }
        at += (uint64_t)n;
    }
    fdatasync(disk_file);
    munmap(disk.pages, disk.count * PAGE);
    disk.pages = NULL;
    return 0;
}

static _Atomic uint64_t disk_errors, disk_slowest_ns;

static void *write_disk(void *unused)
{
    (void)unused;
    struct page *p = map_pages(1);
    uint64_t next = now_ns();
    for (;;) {
        uint64_t per_second = disk_rate;
        next += per_second ? 1000000000u / per_second : 100000000u;
        if (per_second && !disk_wanted) {
            pthread_mutex_lock(&disk_lock);
            uint64_t began = now_ns();
            stamp(p, disk.cursor, disk.lap, TEXT, disk.chain);
            if (pwrite(disk_file, p, PAGE, (off_t)(disk.cursor * PAGE)) == PAGE && fdatasync(disk_file) == 0) {
                advance(&disk, p);
            } else {
                disk_errors++;
            }
            uint64_t took = now_ns() - began;
            if (took > disk_slowest_ns) { disk_slowest_ns = took; }
            pthread_mutex_unlock(&disk_lock);
        }
        uint64_t now = now_ns();
        if (now > next + 1000000000u) { next = now; }
        if (now < next) { sleep_until(next); }
    }
    return NULL;
}

/* Real files: hashed once (which fills the page cache), then read again through the cache and around it. */
struct file { char *path; uint64_t bytes, hash; };
static struct file *files;
static size_t file_count, file_room;

static uint64_t hash_file(const char *path, int flags, uint64_t *bytes)
{
    static char *buffer;
    enum { CHUNK = 256 << 10 };
    if (!buffer) { buffer = map_pages(CHUNK / PAGE); }
    int fd = open(path, O_RDONLY | flags);
    uint64_t h = 0x9e3779b97f4a7c15, total = 0;
    ssize_t n;
    if (fd < 0) { return 0; }
    while ((n = read(fd, buffer, CHUNK)) > 0) {
        memset(buffer + n, 0, (size_t)(CHUNK - n < 8 ? CHUNK - n : 8));
        for (ssize_t i = 0; i < n; i += 8) {
            uint64_t w;
            memcpy(&w, buffer + i, 8);
            h = (h ^ w) * 0x9fb21c651e98df25;
            h ^= h >> 32;
        }
        total += (uint64_t)n;
    }
    close(fd);
    *bytes = total;
    return n < 0 ? 0 : h;
}

static int note_file(const char *path, const struct stat *s, int kind, struct FTW *where)
{
    (void)where;
    if (kind != FTW_F || !S_ISREG(s->st_mode) || s->st_size == 0) { return 0; }
    if (file_count == file_room) {
        file_room = file_room ? file_room * 2 : 256;
        files = realloc(files, file_room * sizeof *files);
        if (!files) { abort(); }
    }
    struct file *f = &files[file_count];
    f->path = strdup(path);
    f->hash = hash_file(path, 0, &f->bytes);
    file_count++;
    return 0;
}

static void load_files(struct text *out)
{
    char root[256];
    snprintf(root, sizeof root, "%s/usr", disk_root);
    pthread_mutex_lock(&disk_lock);
    if (file_count == 0) { nftw(root, note_file, 16, FTW_PHYS); }
    uint64_t bytes = 0;
    for (size_t i = 0; i < file_count; i++) { bytes += files[i].bytes; }
    pthread_mutex_unlock(&disk_lock);
    say(out, "{\"files\":%zu,\"bytes\":%llu}", file_count, (unsigned long long)bytes);
}

static void verify_files(struct verdict *v)
{
    struct page none = { 0 };
    for (size_t i = 0; i < file_count; i++) {
        for (int direct = 0; direct < 2; direct++) {
            uint64_t bytes = 0;
            if (hash_file(files[i].path, direct ? O_DIRECT : 0, &bytes) != files[i].hash) {
                blame(v, files[i].path, &none, i, 0, direct ? "file differs on disk" : "file differs in page cache");
            }
        }
        v->checked++;
    }
}

/* ---- Echo ---------------------------------------------------------------------------------------------------- */

struct connection { int fd; size_t used; char pending[65536]; };

static int listen_on(int type, int port)
{
    struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = in6addr_any };
    int one = 1, zero = 0, fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || (type == SOCK_STREAM && listen(fd, 512) < 0)) {
        perror("agent: listen");
        exit(1);
    }
    return fd;
}

static void serve_connection(int poll, struct connection *c)
{
    for (;;) {
        if (c->used == 0) {
            ssize_t n = recv(c->fd, c->pending, sizeof c->pending, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
                close(c->fd);
                free(c);
                echo_closed++;
                return;
            }
            if (n < 0) { break; }
            c->used = (size_t)n;
            echo_messages++;
        }
        ssize_t n = send(c->fd, c->pending, c->used, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) { break; }
        memmove(c->pending, c->pending + n, c->used - (size_t)n);
        c->used -= (size_t)n;
    }
    struct epoll_event e = { .events = c->used ? EPOLLOUT : EPOLLIN, .data.ptr = c };
    epoll_ctl(poll, EPOLL_CTL_MOD, c->fd, &e);
}

static void *serve_echo(void *unused)
{
    (void)unused;
    int poll = epoll_create1(EPOLL_CLOEXEC), tcp = listen_on(SOCK_STREAM, ECHO_PORT), one = 1;
    int udp = listen_on(SOCK_DGRAM, ECHO_PORT);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = &tcp }, ready[64];
    epoll_ctl(poll, EPOLL_CTL_ADD, tcp, &e);
    e.data.ptr = &udp;
    epoll_ctl(poll, EPOLL_CTL_ADD, udp, &e);
    for (;;) {
        int n = epoll_wait(poll, ready, 64, -1);
        for (int i = 0; i < n; i++) {
            if (ready[i].data.ptr == &tcp) {
                struct connection *c = malloc(sizeof *c);
                if (!c) { abort(); }
                c->used = 0;
                c->fd = accept4(tcp, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (c->fd < 0) { free(c); continue; }
                setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                echo_opened++;
                e.data.ptr = c;
                epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &e);
            } else if (ready[i].data.ptr == &udp) {
                char packet[2048];
                struct sockaddr_in6 from;
                socklen_t length = sizeof from;
                ssize_t got;
                while ((got = recvfrom(udp, packet, sizeof packet, MSG_DONTWAIT, (struct sockaddr *)&from, &length))
                    >= 0) {
                    sendto(udp, packet, (size_t)got, MSG_DONTWAIT, (struct sockaddr *)&from, length);
                    length = sizeof from;
                }
            } else {
                serve_connection(poll, ready[i].data.ptr);
            }
        }
    }
    return NULL;
}

/* ---- Control ------------------------------------------------------------------------------------------------- */

static void hold(pthread_mutex_t *lock, atomic_int *wanted)
{
    (*wanted)++;
    pthread_mutex_lock(lock);
}

static void release(pthread_mutex_t *lock, atomic_int *wanted)
{
    pthread_mutex_unlock(lock);
    (*wanted)--;
}

static int value_of(const char *line, const char *key, char *value, size_t size)
{
    char wanted[32];
    snprintf(wanted, sizeof wanted, " %s=", key);
    const char *at = strstr(line, wanted);
    if (!at) { return 0; }
    at += strlen(wanted);
    size_t n = strcspn(at, " \r\n");
    if (n >= size) { return 0; }
    memcpy(value, at, n);
    value[n] = 0;
    return 1;
}

static int number_of(const char *line, const char *key, uint64_t *number)
{
    char text[32], *end;
    if (!value_of(line, key, text, sizeof text)) { return 0; }
    *number = strtoull(text, &end, 10);
    if (*end == 'K') { *number <<= 10; }
    if (*end == 'M') { *number <<= 20; }
    if (*end == 'G') { *number <<= 30; }
    return 1;
}

static void status(struct text *out)
{
    hold(&memory_lock, &memory_wanted);
    say(out, "{\"pattern\":\"%s\",\"rate\":%llu,\"pages\":%llu,\"staticPages\":%llu,\"lap\":%llu,\"cursor\":%llu,"
        "\"pagesWritten\":%llu,", pattern_names[pattern], (unsigned long long)rate, (unsigned long long)memory.count,
        (unsigned long long)still_count, (unsigned long long)memory.lap, (unsigned long long)memory.cursor,
        (unsigned long long)memory.written);
    release(&memory_lock, &memory_wanted);
    say(out, "\"diskPages\":%llu,\"diskWritten\":%llu,\"diskErrors\":%llu,\"diskSlowestMs\":%.1f,"
        "\"echoMessages\":%llu,\"echoOpened\":%llu,\"echoClosed\":%llu,\"monotonicMs\":%.3f,\"realtimeMs\":%.3f}",
        (unsigned long long)disk.count, (unsigned long long)disk.written, (unsigned long long)disk_errors,
        (double)disk_slowest_ns / 1e6, (unsigned long long)echo_messages, (unsigned long long)echo_opened,
        (unsigned long long)echo_closed, (double)now_ns() / 1e6, (double)clock_ns(CLOCK_REALTIME) / 1e6);
}

static void set(struct text *out, const char *line)
{
    char text[32];
    uint64_t number, size = memory.count * PAGE;
    enum pattern wanted = pattern;
    if (value_of(line, "pattern", text, sizeof text)) {
        int i = 0;
        while (i < STATIC && strcmp(text, pattern_names[i])) { i++; }
        if (i == STATIC) {
            say(out, "{\"error\":\"no pattern named %s: idle, counters, text or incompressible\"}", text);
            return;
        }
        wanted = (enum pattern)i;
    }
    if (number_of(line, "size", &size) && (size < PAGE || size % PAGE)) {
        say(out, "{\"error\":\"size %llu is no positive multiple of %d\"}", (unsigned long long)size, PAGE);
        return;
    }
    hold(&memory_lock, &memory_wanted);
    pattern = wanted;
    if (number_of(line, "rate", &number)) { rate = number; }
    if (number_of(line, "diskrate", &number) && disk.count) { disk_rate = number; }
    int failed = size / PAGE != memory.count && resize_memory(size / PAGE) != 0;
    release(&memory_lock, &memory_wanted);
    if (failed) {
        say(out, "{\"error\":\"no room for a working set of %llu bytes\"}", (unsigned long long)size);
        return;
    }
    status(out);
}

static void verify(struct text *out, const char *line)
{
    struct verdict v = { .list = { calloc(1, 4096), 0, 4096 } };
    uint64_t began = now_ns();
    if (strstr(line, "disk")) {
        hold(&disk_lock, &disk_wanted);
        if (disk.count) { verify_region(&v, &disk, "disk", read_disk); }
        verify_files(&v);
        release(&disk_lock, &disk_wanted);
    } else {
        hold(&memory_lock, &memory_wanted);
        verify_region(&v, &memory, "memory", read_memory);
        for (uint64_t i = 0; i < still_count; i++) {
            const char *why = judge(&still[i], i, 1);
            if (why) { blame(&v, "static", &still[i], i, 1, why); }
            v.checked++;
        }
        release(&memory_lock, &memory_wanted);
    }
    say(out, "{\"checked\":%llu,\"wrong\":%llu,\"pages\":[%s],\"milliseconds\":%.1f}", (unsigned long long)v.checked,
        (unsigned long long)v.wrong, v.list.at, (double)(now_ns() - began) / 1e6);
    free(v.list.at);
}

static void stats(struct text *out, const char *line)
{
    uint64_t slots = 100, reset = 0, last = now_ns() / (SLOT_MS * 1000000u);
    number_of(line, "slots", &slots);
    number_of(line, "reset", &reset);
    if (slots > SLOTS - 10) { slots = SLOTS - 10; }
    if (slots > last) { slots = last; }
    say(out, "{\"slotMs\":%d,\"lastSlot\":%llu,\"longestGapMs\":%.3f,\"longestGapAtMs\":%.3f,\"pages\":[", SLOT_MS,
        (unsigned long long)(last - 1), (double)longest_gap_ns / 1e6, (double)longest_gap_at_ns / 1e6);
    for (uint64_t i = last - slots; i < last; i++) {
        say(out, "%s%u", i == last - slots ? "" : ",", page_slots[i % SLOTS]);
    }
    say(out, "],\"beats\":[");
    for (uint64_t i = last - slots; i < last; i++) {
        say(out, "%s%u", i == last - slots ? "" : ",", beat_slots[i % SLOTS]);
    }
    say(out, "]}");
    if (reset) { longest_gap_ns = 0; longest_gap_at_ns = 0; }
}

/* Spoils one page on purpose, so that a test can see verification name it. */
static void damage(struct text *out, const char *line)
{
    char kind[16] = "content";
    uint64_t number = 0;
    value_of(line, "kind", kind, sizeof kind);
    number_of(line, "page", &number);
    int is_static = !strcmp(kind, "static");
    if (number >= (is_static ? still_count : memory.count)) {
        say(out, "{\"error\":\"no page %llu\"}", (unsigned long long)number);
        return;
    }
    hold(&memory_lock, &memory_wanted);
    struct page *p = is_static ? &still[number] : &memory.pages[number];
    if (!strcmp(kind, "stale")) {
        stamp(p, number, p->lap - 1, (enum pattern)p->pattern, 0);
    } else {
        p->words[WORDS / 2] ^= 1;
    }
    release(&memory_lock, &memory_wanted);
    say(out, "{\"damaged\":%llu}", (unsigned long long)number);
}

static void walk(struct text *out, const char *line)
{
    uint64_t size = 64 << 20, touches_per_second = 500;
    number_of(line, "size", &size);
    number_of(line, "rate", &touches_per_second);
    if (walked || size < PAGE || touches_per_second == 0) {
        say(out, "{\"error\":\"a walk begins once, through one page or more, at one touch a second or more\"}");
        return;
    }
    uint64_t *pages = map_pages(size / PAGE);
    if (!pages) {
        say(out, "{\"error\":\"no room for a walk of %llu bytes\"}", (unsigned long long)size);
        return;
    }
    for (uint64_t i = 0; i < size / 8; i++) { pages[i] = mix(i + 1); }
    walked_count = size / PAGE;
    walk_rate = touches_per_second;
    walked = pages;
    start(walk_memory, NULL);
    touches(out, 0);
}

/* ---- Build --------------------------------------------------------------------------------------------------- */

/* A compiler, one unit after the other: processes that come and go, headers, memory that grows and falls. */
static atomic_uint built, build_failures;

static void *build_units(void *unused)
{
    (void)unused;
    for (;;) {
        pid_t child = fork();
        if (child == 0) {
            if (chroot(disk_root) == 0 && chdir("/tmp") == 0) {
                /* By its whole name: it looks for the compiler proper beside itself. */
                const char *driver = "/usr/bin/x86_64-linux-gnu-g++-12";
                execl(driver, driver, "-O1", "-S", "unit.cc", "-o", "unit.s", (char *)NULL);
            }
            _exit(127);
        }
        int status = 1;
        if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) {
            build_failures++;
            sleep(1);
        } else {
            built++;
        }
    }
    return NULL;
}

static void build(struct text *out)
{
    static atomic_flag begun = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&begun)) {
        char path[256];
        snprintf(path, sizeof path, "%s/tmp", disk_root);
        mkdir(path, 0755);
        snprintf(path, sizeof path, "%s/tmp/unit.cc", disk_root);
        FILE *unit = fopen(path, "w");
        if (unit) {
            fputs("#include <map>\n#include <regex>\n#include <sstream>\n#include <string>\n"
                  "int main() { std::map<std::string, std::regex> all; std::ostringstream s; s << all.size(); }\n",
                  unit);
            fclose(unit);
        }
        start(build_units, NULL);
    }
    while (!built && !build_failures) { usleep(100000); }
    if (build_failures) {
        say(out, "{\"error\":\"the compiler failed %u times\"}", build_failures);
    } else {
        say(out, "{\"built\":%u}", built);
    }
}

static void *serve_control(void *argument)
{
    int fd = (int)(intptr_t)argument;
    FILE *in = fdopen(fd, "r+");
    char line[512];
    struct text out = { malloc(65536), 0, 65536 };
    setvbuf(in, NULL, _IONBF, 0);
    while (in && fgets(line, sizeof line, in)) {
        out.used = 0;
        if (!strncmp(line, "status", 6)) { status(&out); }
        else if (!strncmp(line, "set ", 4)) { set(&out, line); }
        else if (!strncmp(line, "verify", 6)) { verify(&out, line); }
        else if (!strncmp(line, "stats", 5)) { stats(&out, line); }
        else if (!strncmp(line, "files", 5)) { load_files(&out); }
        else if (!strncmp(line, "walk", 4)) { walk(&out, line); }
        else if (!strncmp(line, "touches", 7)) { touches(&out, strstr(line, "reset=1") != NULL); }
        else if (!strncmp(line, "build", 5)) { build(&out); }
        else if (!strncmp(line, "damage ", 7)) { damage(&out, line); }
        else { say(&out, "{\"error\":\"unknown command\"}"); }
        say(&out, "\n");
        for (size_t at = 0; at < out.used;) {
            ssize_t n = send(fd, out.at + at, out.used - at, MSG_NOSIGNAL);
            if (n <= 0) { goto done; }
            at += (size_t)n;
        }
    }
done:
    free(out.at);
    if (in) { fclose(in); } else { close(fd); }
    return NULL;
}

static void *beat(void *unused)
{
    (void)unused;
    uint64_t last = now_ns();
    for (;;) {
        sleep_until(last + BEAT_MS * 1000000u);
        uint64_t now = now_ns(), gap = now - last, slot = now / (SLOT_MS * 1000000u);
        beat_slots[slot % SLOTS]++;
        for (uint64_t s = last / (SLOT_MS * 1000000u) + 1; s < slot && slot - s < SLOTS; s++) {
            beat_slots[s % SLOTS] = 0;
        }
        beat_slots[(slot + 1) % SLOTS] = 0;
        if (gap > longest_gap_ns) {
            longest_gap_ns = gap;
            longest_gap_at_ns = now;
        }
        last = now;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc > 1) { disk_root = argv[1]; }
    signal(SIGPIPE, SIG_IGN);
    still = map_pages(still_count);
    if (!still || resize_memory((16 << 20) / PAGE) != 0) {
        perror("agent: memory");
        return 1;
    }
    for (uint64_t i = 0; i < still_count; i++) { stamp(&still[i], i, 1, i % 2 ? TEXT : STATIC, 0); }
    start(serve_echo, NULL);
    start(beat, NULL);
    start(write_memory, NULL);
    if (open_disk() == 0) {
        start(write_disk, NULL);
    } else {
        fprintf(stderr, "agent: %s/stamps: %s; disk stamping is off\n", disk_root, strerror(errno));
        disk.count = 0;
    }
    int control = listen_on(SOCK_STREAM, CONTROL_PORT);
    printf("agent: ready\n");
    fflush(stdout);
    for (;;) {
        int fd = accept4(control, NULL, NULL, SOCK_CLOEXEC), one = 1;
        if (fd < 0) { continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        start(serve_control, (void *)(intptr_t)fd);
    }
}
