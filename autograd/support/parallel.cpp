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

#if defined(SLUICE_THREAD_SANITIZER)
extern "C" void __tsan_acquire(void* address);  // NOLINT: the sanitizer's own interface
extern "C" void __tsan_release(void* address);  // NOLINT
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

/// Note [Thread sanitizer]
/// The libraries behind the loop are not built with the sanitizer, so it cannot see that the
/// caller's writes happen before the blocks, and the blocks' before the caller's return. In such a
/// build this file is compiled without instrumentation (cmake/SluiceRooms.cmake) and says so
/// itself: every block acquires what the caller released at the fork, and releases what the caller
/// acquires at the join. Races between two blocks are still reported.
#if defined(SLUICE_THREAD_SANITIZER)
void announce_acquire(void* address) { __tsan_acquire(address); }
void announce_release(void* address) { __tsan_release(address); }
#else
void announce_acquire(void*) {}
void announce_release(void*) {}
#endif

/// The two moments of a loop at which threads synchronise.
struct ForkJoin {
  char fork = 0;
  char join = 0;
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
  // A loop of few blocks asks for as many threads as any other: OpenMP's runtime ends the threads
  // that a smaller team does without, and would have to make them again.
  const int threads = num_threads();
  if (threads <= 1 || blocks <= 1 || inside_loop) {
    for (int64_t block = 0; block < blocks; ++block) body(block);
    return;
  }
  FirstException first;
  ForkJoin sync;
  announce_release(&sync.fork);
  const auto run_block = [&](int64_t block) {
    announce_acquire(&sync.fork);
    first.run(block, body);
    announce_release(&sync.join);
  };
#if defined(SLUICE_PARALLEL_TBB)
  oneapi::tbb::global_control control(oneapi::tbb::global_control::max_allowed_parallelism,
                                      static_cast<size_t>(threads));
  oneapi::tbb::task_arena arena(threads);
  arena.execute([&] {
    oneapi::tbb::parallel_for(
        oneapi::tbb::blocked_range<int64_t>(0, blocks, 1),
        [&](const oneapi::tbb::blocked_range<int64_t>& range) {
          const LoopMark mark;
          for (int64_t block = range.begin(); block < range.end(); ++block) run_block(block);
        },
        oneapi::tbb::simple_partitioner());
  });
#else
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t block = 0; block < blocks; ++block) {
    const LoopMark mark;
    run_block(block);
  }
#endif
  announce_acquire(&sync.join);
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
