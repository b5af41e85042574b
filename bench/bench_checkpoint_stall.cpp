// What a checkpoint in the background costs training: the seconds that the training thread waits for
// it (`stall`, the copy of the state), and what the steps that the writing overlaps take longer than
// the same number of steps before and after it (`slower`); both as a share of the overlapped steps'
// time without it. `writer_cpu` are the processor seconds of the writing thread: the least that it
// takes from the machine, free of the machine's own drift, and `of_machine` their share of all
// threads' time in the overlapped steps.
//
//   bench_checkpoint_stall --benchmark_filter=m_moe

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <memory>

#include "autograd/support/parallel.h"
#include "bench/run_benchmarks.h"
#include "train/checkpoint/store.h"
#include "train/run.h"

namespace sluice::bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Notes how long a file took, when the writing thread gives it its name.
class TimedFiles final : public FileSystem {
 public:
  int rename(const char* from, const char* to) override {
    timespec used{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    cpu_seconds_ = static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
    const int result = FileSystem::rename(from, to);
    written_ += 1;
    return result;
  }
  [[nodiscard]] int written() const { return written_; }
  [[nodiscard]] double cpu_seconds() const { return cpu_seconds_; }

 private:
  std::atomic<int> written_{0};
  std::atomic<double> cpu_seconds_{0.0};
};

class StallBench {
 public:
  explicit StallBench(const std::string& recipe)
      : folder_(std::filesystem::temp_directory_path() /
                fmt::format("sluice_stall_{}_{}", recipe, ::getpid())),
        run_(
            load_recipe({{fmt::format("{}/recipes/sizes/{}.yaml", SLUICE_SOURCE_DIR, recipe)}, {}}),
            communicator_),
        store_(folder_, {.keep = 1, .keep_best = false}, files_) {
    store_.open_for_writing();
    CountVisitor count;
    run_.visit_state(count);
    state_bytes_ = count.total().bytes;
    store_.reserve(state_bytes_);
    for (int i = 0; i < 2; ++i) (void)run_.step();  // the first makes gradients and moments
  }
  ~StallBench() {
    store_.finish();
    std::error_code error;
    std::filesystem::remove_all(folder_, error);
  }
  StallBench(const StallBench&) = delete;
  StallBench& operator=(const StallBench&) = delete;

  void measure(benchmark::State& state) {
    double stall = 0.0;
    double overlapped = 0.0;
    double plain = 0.0;
    double cpu = 0.0;
    int64_t steps = 0;
    for (auto _ : state) {
      std::vector<double> without{timed_step()};
      const int before = files_.written();
      const auto start = Clock::now();
      store_.save(run_.checkpoint_meta(std::nullopt),
                  [&](StateVisitor& visitor) { run_.visit_state(visitor); });
      const double waited = seconds_since(start);
      state.SetIterationTime(waited);
      stall += waited;
      int64_t count = 0;
      while (files_.written() == before) {
        overlapped += timed_step();
        ++count;
      }
      store_.finish();
      while (std::ssize(without) < count + 1) without.push_back(timed_step());
      for (const double seconds : without) {
        plain += seconds * static_cast<double>(count) / static_cast<double>(count + 1);
      }
      cpu += files_.cpu_seconds();
      steps += count;
    }
    const auto saves = static_cast<double>(state.iterations());
    state.counters["stall_s"] = stall / saves;
    state.counters["steps_overlapped"] = static_cast<double>(steps) / saves;
    state.counters["overlapped_s"] = plain / saves;
    state.counters["stall_share"] = stall / plain;
    state.counters["slower_share"] = (overlapped - plain) / plain;
    state.counters["writer_cpu_s"] = cpu / saves;
    state.counters["of_machine"] = cpu / (overlapped * num_threads());
    state.counters["state_MiB"] = static_cast<double>(state_bytes_) / (1024.0 * 1024.0);
  }

 private:
  [[nodiscard]] double timed_step() {
    const auto start = Clock::now();
    (void)run_.step();
    return seconds_since(start);
  }

  std::filesystem::path folder_;
  SingleRank communicator_;
  TimedFiles files_;
  Run run_;
  CheckpointStore store_;
  int64_t state_bytes_ = 0;
};

void add(const std::string& recipe, int64_t saves) {
  add_rounds("checkpoint_stall/" + recipe, saves, [=](benchmark::State& state) {
    set_num_threads(num_processors());
    StallBench(recipe).measure(state);
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add("s_moe", 5);
  sluice::bench::add("m_moe", 3);
  sluice::bench::add("l_moe", 1);
  return sluice::bench::run_benchmarks(argc, argv);
}
