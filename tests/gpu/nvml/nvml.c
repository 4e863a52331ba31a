/*
 * A stand-in for NVIDIA's libnvidia-ml.so.1: the calls with which pynvml looks at a machine, answered from the text file
 * that the environment variable NVML_MACHINE names. Structures, limits and error codes are those of NVIDIA's nvml.h.
 *
 *   driver 535.261.03            a machine; what stands before the first "gpu" holds for all of it
 *   fail nvmlInit 18             this call answers with that nvmlReturn_t; or with "hang", or "abort"
 *   gpu                          a card, in NVML's order
 *   name NVIDIA GeForce GTX 750 Ti
 *   uuid GPU-...
 *   pci 0000:03:00.0
 *   id 10de:1380
 *   memory 2096955392            bytes
 *   capability 5.0
 *   fail nvmlDeviceGetUUID 3     this call about this card
 *
 * Built with -DBEFORE_387 it lacks the calls that came with branch 387.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    INSUFFICIENT_SIZE = 7,
    INSUFFICIENT_POWER = 8,
    DRIVER_NOT_LOADED = 9,
    FUNCTION_NOT_FOUND = 13,
    GPU_IS_LOST = 15,
    RESET_REQUIRED = 16,
    LIB_RM_VERSION_MISMATCH = 18,
    UNKNOWN = 999,
    HANG = -1,
    ABORT = -2
};

typedef struct {
    char bus_id[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    unsigned reserved[4];
} pci_info_v2;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} pci_info_v3;

typedef struct {
    unsigned long long total, free, used;
} memory_info;

/* The sizes that callers were compiled with. */
_Static_assert(sizeof(pci_info_v2) == 52 && sizeof(pci_info_v3) == 68 && sizeof(memory_info) == 24, "nvml.h");

typedef struct {
    char call[64];
    int answer;
} failure;

typedef struct {
    char name[96], uuid[96];
    unsigned domain, bus, device, vendor_id, device_id;
    unsigned long long memory;
    int major, minor;
    failure failures[8];
    int failure_count;
} card;

static card machine, cards[8];
static int card_count, initialized;
static char driver[80];

static void wrong(const char *line)
{
    fprintf(stderr, "libnvidia-ml stand-in: bad line in the machine: %s\n", line);
    exit(70);
}

static void read_failure(card *about, const char *words, const char *line)
{
    char answer[16];
    failure *next = &about->failures[about->failure_count++];

    if (about->failure_count > 8 || sscanf(words, "%63s %15s", next->call, answer) != 2)
        wrong(line);
    if (!strcmp(answer, "hang"))
        next->answer = HANG;
    else if (!strcmp(answer, "abort"))
        next->answer = ABORT;
    else
        next->answer = atoi(answer);
}

static void read_line(char *line)
{
    static card *about = &machine;
    char *key = strtok(line, " "), *rest = strtok(NULL, "");

    if (!key || *key == '#')
        return;
    if (!strcmp(key, "gpu") && card_count < 8) {
        about = &cards[card_count++];
        return;
    }
    if (!rest)
        wrong(key);
    if (!strcmp(key, "driver"))
        snprintf(driver, sizeof driver, "%s", rest);
    else if (!strcmp(key, "fail"))
        read_failure(about, rest, line);
    else if (!strcmp(key, "name"))
        snprintf(about->name, sizeof about->name, "%s", rest);
    else if (!strcmp(key, "uuid"))
        snprintf(about->uuid, sizeof about->uuid, "%s", rest);
    else if (!strcmp(key, "memory"))
        about->memory = strtoull(rest, NULL, 10);
    else if (!strcmp(key, "pci") && sscanf(rest, "%x:%x:%x.0", &about->domain, &about->bus, &about->device) == 3)
        return;
    else if (!strcmp(key, "id") && sscanf(rest, "%x:%x", &about->vendor_id, &about->device_id) == 2)
        return;
    else if (!strcmp(key, "capability") && sscanf(rest, "%d.%d", &about->major, &about->minor) == 2)
        return;
    else if (strcmp(key, "pci") && strcmp(key, "id") && strcmp(key, "capability"))
        wrong(key);
    else
        wrong(rest);
}

static void read_machine(void)
{
    char line[256];
    const char *path = getenv("NVML_MACHINE");
    FILE *file = path ? fopen(path, "r") : NULL;

    if (!file) {
        fprintf(stderr, "libnvidia-ml stand-in: NVML_MACHINE: %s\n", path ? strerror(errno) : "not set");
        exit(70);
    }
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        read_line(line);
    }
    fclose(file);
}

/* What the description wants of this call, about this card or the whole machine. */
static int planned(const card *about, const char *call)
{
    sigset_t all;
    int i;

    for (i = 0; i < about->failure_count; i++) {
        if (strcmp(about->failures[i].call, call))
            continue;
        if (about->failures[i].answer == ABORT)
            abort();
        if (about->failures[i].answer == HANG) {
            sigfillset(&all);
            sigprocmask(SIG_BLOCK, &all, NULL);
            for (;;)
                pause();
        }
        return about->failures[i].answer;
    }
    return SUCCESS;
}

/* What every call about a card checks first. */
static int checked(const card *device, const void *result, const char *call)
{
    if (!initialized)
        return UNINITIALIZED;
    if (device < cards || device >= cards + card_count || !result)
        return INVALID_ARGUMENT;
    return planned(device, call);
}

static int give_text(const char *text, char *buffer, unsigned length)
{
    if (strlen(text) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return SUCCESS;
}

static int init(void)
{
    int answer;

    if (!initialized)
        read_machine();
    answer = planned(&machine, "nvmlInit");
    if (answer == SUCCESS)
        initialized++;
    return answer;
}

int nvmlInit_v2(void)
{
    return init();
}

int nvmlShutdown(void)
{
    if (!initialized)
        return UNINITIALIZED;
    initialized--;
    return SUCCESS;
}

const char *nvmlErrorString(int result)
{
    switch (result) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case INSUFFICIENT_POWER: return "Insufficient External Power";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case FUNCTION_NOT_FOUND: return "Function Not Found";
    case GPU_IS_LOST: return "GPU is lost";
    case RESET_REQUIRED: return "GPU requires reset";
    case LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    int answer = initialized ? planned(&machine, "nvmlSystemGetDriverVersion") : UNINITIALIZED;

    return answer ? answer : give_text(driver, version, length);
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    int answer = initialized ? planned(&machine, "nvmlDeviceGetCount") : UNINITIALIZED;

    if (answer == SUCCESS)
        *count = (unsigned)card_count;
    return answer;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, card **device)
{
    int answer;

    if (!initialized)
        return UNINITIALIZED;
    if (!device || index >= (unsigned)card_count)
        return INVALID_ARGUMENT;
    answer = planned(&cards[index], "nvmlDeviceGetHandleByIndex");
    if (answer == SUCCESS)
        *device = &cards[index];
    return answer;
}

int nvmlDeviceGetName(card *device, char *name, unsigned length)
{
    int answer = checked(device, name, "nvmlDeviceGetName");

    return answer ? answer : give_text(device->name, name, length);
}

int nvmlDeviceGetUUID(card *device, char *uuid, unsigned length)
{
    int answer = checked(device, uuid, "nvmlDeviceGetUUID");

    return answer ? answer : give_text(device->uuid, uuid, length);
}

int nvmlDeviceGetPciInfo_v2(card *device, pci_info_v2 *pci)
{
    int answer = checked(device, pci, "nvmlDeviceGetPciInfo");

    if (answer)
        return answer;
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "%04X:%02X:%02X.0", device->domain & 0xffff, device->bus & 0xff,
         device->device & 0xff);
    pci->domain = device->domain;
    pci->bus = device->bus;
    pci->device = device->device;
    pci->device_id = device->device_id << 16 | device->vendor_id;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(card *device, memory_info *memory)
{
    int answer = checked(device, memory, "nvmlDeviceGetMemoryInfo");

    if (answer)
        return answer;
    memory->total = device->memory;
    memory->used = 2 << 20;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(card *device, int *major, int *minor)
{
    int answer = checked(device, major, "nvmlDeviceGetCudaComputeCapability");

    if (answer)
        return answer;
    *major = device->major;
    *minor = device->minor;
    return SUCCESS;
}

#ifndef BEFORE_387
int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    return init();
}

int nvmlDeviceGetPciInfo_v3(card *device, pci_info_v3 *pci)
{
    pci_info_v2 old;
    int answer = checked(device, pci, "nvmlDeviceGetPciInfo");

    if (answer == SUCCESS)
        answer = nvmlDeviceGetPciInfo_v2(device, &old);
    if (answer)
        return answer;
    memset(pci, 0, sizeof *pci);
    memcpy(pci->bus_id_legacy, old.bus_id, sizeof old.bus_id);
    snprintf(pci->bus_id, sizeof pci->bus_id, "%08X:%02X:%02X.0", device->domain, device->bus & 0xff,
         device->device & 0xff);
    pci->domain = old.domain;
    pci->bus = old.bus;
    pci->device = old.device;
    pci->device_id = old.device_id;
    return SUCCESS;
}
#endif
