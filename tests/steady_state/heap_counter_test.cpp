// The counter counts: else the tests beside it could not fail.

#include "tests/steady_state/heap_counter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <vector>

namespace sluice {
namespace {

using testing::HeapCounter;

/// Keeps the compiler from leaving out what nobody uses.
template <class T>
T* shown(T* pointer) {
  asm volatile("" : : "r"(pointer) : "memory");
  return pointer;
}

TEST(HeapCounter, CountsEveryWayToTakeMemory) {
  std::vector<void*> taken(8);
  std::unique_ptr<int> one;
  void* aligned = nullptr;
  const HeapCounter counter;
  EXPECT_EQ(counter.allocations(), 0);
  one.reset(shown(new int(1)));
  EXPECT_EQ(counter.allocations(), 1);
  taken[0] = shown(::operator new (256, std::align_val_t{128}));
  EXPECT_EQ(counter.allocations(), 2);
  taken[1] = shown(std::malloc(10));
  taken[2] = shown(std::calloc(3, 10));
  taken[3] = shown(std::realloc(taken[1], 100000));
  taken[4] = shown(std::aligned_alloc(64, 128));
  ASSERT_EQ(posix_memalign(&aligned, 64, 100), 0);
  EXPECT_EQ(counter.allocations(), 7);
  {
    const std::vector<double> values(100, 1.0);
    (void)shown(values.data());
  }
  EXPECT_EQ(counter.allocations(), 8);
  ::operator delete (taken[0], std::align_val_t{128});
  for (void* memory : {taken[2], taken[3], taken[4], aligned}) std::free(memory);
  EXPECT_EQ(counter.allocations(), 8) << "giving back is free";
}

TEST(HeapCounter, CountsThreadsAndWhatTheyTake) {
  const HeapCounter counter;
  std::thread([] { std::free(shown(std::malloc(10))); }).join();
  EXPECT_EQ(counter.threads(), 1);
  EXPECT_GE(counter.allocations(), 1);
}

TEST(HeapCounter, CountsNothingOutsideItsLife) {
  { const HeapCounter earlier; }
  std::free(shown(std::malloc(10)));
  const HeapCounter counter;
  EXPECT_EQ(counter.allocations(), 0);
}

/// A function of its own, so that its name is found.
__attribute__((noinline)) void take_some_memory() { std::free(shown(std::malloc(10))); }

TEST(HeapCounter, NamesTheCallers) {
  const HeapCounter counter;
  take_some_memory();
  EXPECT_FALSE(counter.callers().empty());
}

}  // namespace
}  // namespace sluice
