#pragma once
// Aligned memory for tensors: blocks are reused by size class, so that a steady-state step
// allocates nothing.
//
// The pool also is the ruler of memory: bytes in use by kind, and the high-water mark with its
// split. A pool opened for shapes only hands out blocks without memory and counts them all the
// same; `sluice plan` runs the real tape on such a pool and so predicts the peak of a run from the
// very code that the run executes.

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

namespace sluice {

/// What a block holds; only accounting depends on it.
enum class MemoryKind : uint8_t { parameters, gradients, optimizer, activations };
inline constexpr int kMemoryKinds = 4;
[[nodiscard]] std::string_view name_of(MemoryKind kind);

struct MemoryUse {
  std::array<int64_t, kMemoryKinds> bytes{};
  [[nodiscard]] int64_t operator[](MemoryKind kind) const {
    return bytes[static_cast<size_t>(kind)];
  }
  [[nodiscard]] int64_t total() const;
};

namespace detail {
class PoolState;

/// A counted block of memory; the header of every tensor's storage.
struct Block {
  std::byte* data = nullptr;  // null when the pool is for shapes only, or bytes == 0
  int64_t bytes = 0;          // of the size class, at least what was asked for
  std::atomic<int32_t> references{0};
  MemoryKind kind = MemoryKind::activations;
  PoolState* pool = nullptr;
  Block* next_free = nullptr;
};

void release(Block* block);
}  // namespace detail

/// Intrusive reference to a block. Copying shares; the last reference returns the block to its
/// pool. Counting is atomic, since a checkpoint writer may hold a tensor of the training thread.
class BlockRef {
 public:
  BlockRef() = default;
  explicit BlockRef(detail::Block* block) : block_(block) { retain(); }
  BlockRef(const BlockRef& other) : block_(other.block_) { retain(); }
  BlockRef(BlockRef&& other) noexcept : block_(other.block_) { other.block_ = nullptr; }
  BlockRef& operator=(BlockRef other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~BlockRef() {
    if (block_ != nullptr && block_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      detail::release(block_);
    }
  }

  [[nodiscard]] explicit operator bool() const { return block_ != nullptr; }
  [[nodiscard]] std::byte* data() const { return block_->data; }
  [[nodiscard]] int32_t use_count() const {
    return block_->references.load(std::memory_order_acquire);
  }
  /// What tells blocks apart where they have no memory; null for none.
  [[nodiscard]] const void* identity() const { return block_; }
  [[nodiscard]] MemoryKind kind() const { return block_->kind; }
  friend bool operator==(const BlockRef&, const BlockRef&) = default;

 private:
  void retain() const {
    if (block_ != nullptr) block_->references.fetch_add(1, std::memory_order_relaxed);
  }
  detail::Block* block_ = nullptr;
};

class Pool {
 public:
  enum class Mode { memory, shapes_only };

  explicit Pool(Mode mode = Mode::memory);
  /// Blocks still referenced stay valid; their memory goes back to the system with the last of
  /// them.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  /// A block of at least `bytes` bytes, 64-byte aligned, contents unspecified. Throws
  /// std::bad_alloc.
  [[nodiscard]] BlockRef allocate(int64_t bytes, MemoryKind kind);

  [[nodiscard]] bool shapes_only() const;
  /// Bytes in use now.
  [[nodiscard]] MemoryUse in_use() const;
  /// The split at the moment when the total was highest since the last reset_peak().
  [[nodiscard]] MemoryUse peak() const;
  void reset_peak();
  /// Blocks handed out since construction that needed new memory from the system.
  [[nodiscard]] int64_t system_allocations() const;
  /// Bytes of all blocks that there are, handed out or waiting: what the process holds. Counted on a
  /// pool for shapes only as well.
  [[nodiscard]] int64_t system_bytes() const;
  /// Returns unused cached memory to the system.
  void trim();

 private:
  detail::PoolState* state_;
};

}  // namespace sluice
