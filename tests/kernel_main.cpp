// Replays recorded calls of the fused kernel from heap buffers of exactly the size they had, at every instruction set
// and with one thread and three: test_sanitizers.py records the calls, and builds this with sanitizers.
//
// A recording is a sequence of calls: kind (0 mac, 1 pack, 2 unpack, 3 pass), size of the structure, the structure, number of
// buffers; of each buffer: offset of its pointer in the structure, bytes, bytes to compare (0: an input), contents.
#include "../src/bitline/macro/fused/kernel.cpp"

#include <cstdio>
#include <cstdlib>
#include <memory>

namespace {

struct Held {
    int64_t offset, bytes, compared;
    std::unique_ptr<char[]> recorded;
};

void get(void *into, size_t bytes, FILE *file) {
    if (std::fread(into, 1, bytes, file) == bytes) return;
    std::fprintf(stderr, "the recording ends early\n");
    std::exit(2);
}

template <class T> T get(FILE *file) {
    T value;
    get(&value, sizeof value, file);
    return value;
}

// One call with buffers of its own; whether it gives what was recorded.
template <class Task> bool replay(const std::vector<char> &task, const std::vector<Held> &held, int64_t threads, int kind) {
    Task call;
    std::memcpy(static_cast<void *>(&call), task.data(), sizeof call);
    call.threads = threads;
    std::vector<std::unique_ptr<char[]>> buffers;
    for (const Held &each : held) {
        buffers.emplace_back(new char[each.bytes]);
        if (each.compared) std::memset(buffers.back().get(), 0xAA, each.bytes);
        else std::memcpy(buffers.back().get(), each.recorded.get(), each.bytes);
        char *at = buffers.back().get();
        std::memcpy(reinterpret_cast<char *>(&call) + each.offset, &at, sizeof at);
    }
    if constexpr (std::is_same_v<Task, Job>) bitline_mac(&call);
    else if constexpr (std::is_same_v<Task, Pass>) bitline_pass(&call);
    else if (kind == 1) bitline_pack(&call);
    else bitline_unpack(&call);
    for (size_t i = 0; i < held.size(); i++)
        if (std::memcmp(buffers[i].get(), held[i].recorded.get(), held[i].compared)) return false;
    return true;
}

} // namespace

int main(int, char **arguments) {
    FILE *file = std::fopen(arguments[1], "rb");
    if (!file) return 2;
    const int best = bitline_use(3);
    int64_t calls = 0, wrong = 0;
    for (int64_t kind; std::fread(&kind, 1, sizeof kind, file) == sizeof kind; calls++) {
        std::vector<char> task(get<int64_t>(file));
        get(task.data(), task.size(), file);
        if (task.size() != (kind == 0 ? sizeof(Job) : kind == 3 ? sizeof(Pass) : sizeof(Pack))) {
            std::fprintf(stderr, "call %ld has another structure\n", (long)calls);
            return 2;
        }
        std::vector<Held> held(get<int64_t>(file));
        for (Held &each : held) {
            each.offset = get<int64_t>(file), each.bytes = get<int64_t>(file), each.compared = get<int64_t>(file);
            each.recorded.reset(new char[each.bytes]);
            get(each.recorded.get(), each.bytes, file);
        }
        for (int level = 0; level <= best; level++)
            for (int64_t threads : {1, 3}) {
                bitline_use(level);
                const bool same = kind == 0   ? replay<Job>(task, held, threads, 0)
                                  : kind == 3 ? replay<Pass>(task, held, threads, 3)
                                              : replay<Pack>(task, held, threads, (int)kind);
                if (same) continue;
                wrong++;
                std::fprintf(stderr, "call %ld, kind %ld: %s with %ld threads gives something else\n", (long)calls,
                             (long)kind, bitline_cpu(), (long)threads);
            }
    }
    std::printf("%ld calls, %ld differ\n", (long)calls, (long)wrong);
    return wrong != 0;
}
