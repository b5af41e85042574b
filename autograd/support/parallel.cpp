#include "autograd/support/parallel.h"

#include <sched.h>

#include <atomic>
#include <exception>
#include <limits>
#include <mutex>

#include "autograd/support/error.h"

#if defined(SLUICE_PARALLEL_TBB)
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/partitioner.h>
#include <oneapi/tbb/task_arena.h>

#include <memory>
#else
#include <omp.h>
#endif

namespace sluice {
namespace {

std::atomic<int> thread_limit{0};  // 0: not set, use every processor
thread_local bool inside_loop = false;

/// Keeps the exception of the lowest block: which one is reported does not depend on timing.
class FirstException {
 public:
  void run(int64_t block, FunctionRef<void(int64_t)> body) noexcept {
    try {
      body(block);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (block < block_) {
        block_ = block;
        exception_ = std::current_exception();
      }
    }
  }
  void rethrow() {
    if (exception_) std::rethrow_exception(exception_);
  }

 private:
  std::mutex mutex_;
  int64_t block_ = std::numeric_limits<int64_t>::max();
  std::exception_ptr exception_;
};

/// Marks the calling thread as inside a loop, so that a nested one runs serially.
class LoopMark {
 public:
  LoopMark() : outer_(inside_loop) { inside_loop = true; }
  ~LoopMark() { inside_loop = outer_; }

 private:
  bool outer_;
};

}  // namespace

int num_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

void set_num_threads(int threads) {
  SLUICE_CHECK(ConfigError, threads >= 1, "threads: found {}, allowed 1 or more", threads);
  thread_limit = threads;
}

int num_threads() {
  const int limit = thread_limit;
  return limit > 0 ? limit : num_processors();
}

void parallel_for(int64_t blocks, FunctionRef<void(int64_t)> body) {
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), blocks));
  if (threads <= 1 || inside_loop) {
    for (int64_t block = 0; block < blocks; ++block) body(block);
    return;
  }
  FirstException first;
#if defined(SLUICE_PARALLEL_TBB)
  oneapi::tbb::global_control control(oneapi::tbb::global_control::max_allowed_parallelism,
                                      static_cast<size_t>(threads));
  oneapi::tbb::task_arena arena(threads);
  arena.execute([&] {
    oneapi::tbb::parallel_for(
        oneapi::tbb::blocked_range<int64_t>(0, blocks, 1),
        [&](const oneapi::tbb::blocked_range<int64_t>& range) {
          const LoopMark mark;
          for (int64_t block = range.begin(); block < range.end(); ++block) first.run(block, body);
        },
        oneapi::tbb::simple_partitioner());
  });
#else
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t block = 0; block < blocks; ++block) {
    const LoopMark mark;
    first.run(block, body);
  }
#endif
  first.rethrow();
}

const char* parallel_backend() {
#if defined(SLUICE_PARALLEL_TBB)
  return "tbb";
#else
  return "openmp";
#endif
}

}  // namespace sluice
