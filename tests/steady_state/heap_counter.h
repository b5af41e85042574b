#pragma once
// Counts what takes memory from the heap and what makes threads, in the whole process: this binary
// stands in for malloc and its relatives (through which operator new goes) and for pthread_create.

#include <cstdint>
#include <string>

namespace sluice::testing {

/// Counts while it lives; one at a time.
class HeapCounter {
 public:
  HeapCounter();
  ~HeapCounter();
  HeapCounter(const HeapCounter&) = delete;
  HeapCounter& operator=(const HeapCounter&) = delete;

  /// Calls that took memory, on any thread.
  [[nodiscard]] int64_t allocations() const;
  /// Threads made.
  [[nodiscard]] int64_t threads() const;
  /// Who called, each place once, in the order in which they were first seen: innermost first, one
  /// line per frame.
  [[nodiscard]] std::string callers() const;
};

}  // namespace sluice::testing
