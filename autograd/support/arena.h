#pragma once
// Bump allocator with marks: scratch memory that lives for one call, or one step.
//
//   ArenaScope scratch(thread_arena());
//   float* tile = scratch.allocate<float>(64 * 128);   // 64-byte aligned, uninitialised
//   ...                                                 // gone when `scratch` goes out of scope
//
// Blocks are kept for reuse, so a steady state allocates nothing from the heap. Only trivially
// destructible objects may live here: nothing is ever destroyed.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

namespace sluice {

class Arena {
 public:
  static constexpr size_t kAlignment = 64;

  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A position to rewind to.
  struct Mark {
    size_t chunk = 0;
    size_t used = 0;
  };

  [[nodiscard]] Mark mark() const { return {current_, used_}; }
  /// Gives back everything allocated since `mark`; the memory stays with the arena.
  void rewind(Mark mark) {
    current_ = mark.chunk;
    used_ = mark.used;
  }
  void* allocate_bytes(size_t bytes);

  template <class T, class... Args>
  T* create(Args&&... args) {
    static_assert(std::is_trivially_destructible_v<T>, "arena objects are never destroyed");
    return new (allocate_bytes(sizeof(T))) T(std::forward<Args>(args)...);
  }

 private:
  struct Free {
    void operator()(std::byte* pointer) const {
      ::operator delete[](pointer, std::align_val_t{kAlignment});
    }
  };
  struct Chunk {
    std::unique_ptr<std::byte[], Free> memory;
    size_t size = 0;
  };
  std::vector<Chunk> chunks_;
  size_t current_ = 0;
  size_t used_ = 0;
};

/// Rewinds the arena to where it stood when the scope opened.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.rewind(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

  /// `count` uninitialised elements, 64-byte aligned; count 0 gives a pointer that must not be
  /// read.
  template <class T>
  [[nodiscard]] T* allocate(int64_t count) {
    static_assert(std::is_trivially_destructible_v<T>, "arena objects are never destroyed");
    return static_cast<T*>(arena_.allocate_bytes(static_cast<size_t>(count) * sizeof(T)));
  }

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

/// The calling thread's scratch arena. The one thread-local of the project: kernels need scratch
/// per thread, and threads belong to the parallel back end, so nobody else could own it. It never
/// carries a value from one call to the next.
[[nodiscard]] Arena& thread_arena();

}  // namespace sluice
