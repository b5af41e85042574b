#include "tests/steady_state/heap_counter.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <span>

// What glibc calls its own: everything here passes on to these.
extern "C" {
void* __libc_malloc(size_t size);                      // NOLINT: glibc's names
void* __libc_calloc(size_t count, size_t size);        // NOLINT
void* __libc_realloc(void* memory, size_t size);       // NOLINT
void* __libc_memalign(size_t alignment, size_t size);  // NOLINT
}

namespace sluice::testing {
namespace {

constexpr size_t kSites = 24;
constexpr int kFrames = 12;

struct Site {
  std::array<void*, kFrames> frames{};
  int depth = 0;
  friend bool operator==(const Site&, const Site&) = default;
};

std::atomic<bool> counting{false};
std::atomic<int64_t> allocations_counted{0};
std::atomic<int64_t> threads_counted{0};
std::mutex sites_mutex;
std::array<Site, kSites> sites;
size_t sites_seen = 0;
thread_local bool inside_counter = false;  // backtrace() may allocate

void note(std::atomic<int64_t>& counter) {
  if (!counting.load(std::memory_order_relaxed) || inside_counter) return;
  inside_counter = true;
  ++counter;
  Site site;
  site.depth = backtrace(site.frames.data(), kFrames);
  {
    const std::lock_guard lock(sites_mutex);
    const auto end = sites.begin() + static_cast<int64_t>(sites_seen);
    if (sites_seen < kSites && std::find(sites.begin(), end, site) == end) {
      sites[sites_seen++] = site;
    }
  }
  inside_counter = false;
}

using CreateThread = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);

CreateThread real_create_thread() {
  static const auto real = reinterpret_cast<CreateThread>(dlsym(RTLD_NEXT, "pthread_create"));
  return real;
}

std::string describe(void* address) {
  Dl_info info{};
  if (dladdr(address, &info) == 0 || info.dli_sname == nullptr) return fmt::format("{}", address);
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(
      abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status), std::free);
  return status == 0 ? name.get() : info.dli_sname;
}

}  // namespace

HeapCounter::HeapCounter() {
  // What these take at their first use is not the test's.
  std::array<void*, 1> frame{};
  (void)backtrace(frame.data(), 1);
  (void)real_create_thread();
  sites_seen = 0;
  allocations_counted = 0;
  threads_counted = 0;
  counting = true;
}

HeapCounter::~HeapCounter() { counting = false; }

int64_t HeapCounter::allocations() const { return allocations_counted; }
int64_t HeapCounter::threads() const { return threads_counted; }

std::string HeapCounter::callers() const {
  const bool was_counting = counting.exchange(false);
  std::string text;
  for (const Site& site : std::span(sites).first(sites_seen)) {
    for (int i = 1; i < site.depth; ++i) {
      text += fmt::format("  {}\n", describe(site.frames[static_cast<size_t>(i)]));
    }
    text += "\n";
  }
  counting = was_counting;
  return text;
}

}  // namespace sluice::testing

using sluice::testing::allocations_counted;
using sluice::testing::note;

extern "C" {

void* malloc(size_t size) {
  note(allocations_counted);
  return __libc_malloc(size);
}

void* calloc(size_t count, size_t size) {
  note(allocations_counted);
  return __libc_calloc(count, size);
}

void* realloc(void* memory, size_t size) {
  note(allocations_counted);
  return __libc_realloc(memory, size);
}

void* memalign(size_t alignment, size_t size) {
  note(allocations_counted);
  return __libc_memalign(alignment, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
  note(allocations_counted);
  return __libc_memalign(alignment, size);
}

int posix_memalign(void** result, size_t alignment, size_t size) {
  note(allocations_counted);
  *result = __libc_memalign(alignment, size);
  return *result == nullptr ? ENOMEM : 0;
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                   void* argument) noexcept {
  note(sluice::testing::threads_counted);
  return sluice::testing::real_create_thread()(thread, attributes, start, argument);
}

}  // extern "C"
