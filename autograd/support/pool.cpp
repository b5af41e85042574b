#include "autograd/support/pool.h"

#include <sys/mman.h>

#include <bit>
#include <cstring>
#include <mutex>
#include <new>
#include <numeric>
#include <unordered_map>

#include "autograd/support/error.h"

namespace sluice {

std::string_view name_of(MemoryKind kind) {
  constexpr std::array<std::string_view, kMemoryKinds> kNames = {"weights", "gradients",
                                                                 "optimizer", "activations"};
  return kNames[static_cast<size_t>(kind)];
}

int64_t MemoryUse::total() const { return std::accumulate(bytes.begin(), bytes.end(), int64_t{0}); }

namespace detail {
namespace {

constexpr size_t kAlignment = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;

/// Classes grow by an eighth of a power of two: at most 12.5 % of a block is unused.
int64_t size_class(int64_t bytes) {
  constexpr int64_t kSmallest = 64;
  if (bytes <= kSmallest) return kSmallest;
  const int64_t power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes - 1)));
  const int64_t step = std::max(kSmallest, power / 8);
  return (bytes + step - 1) / step * step;
}

std::byte* system_allocate(int64_t bytes) {
  const size_t alignment = bytes >= kHugePage ? static_cast<size_t>(kHugePage) : kAlignment;
  auto* memory = static_cast<std::byte*>(
      ::operator new (static_cast<size_t>(bytes), std::align_val_t{alignment}));
  // Large tensors are touched linearly: huge pages cut page faults. Failure costs only speed.
  if (bytes >= kHugePage) (void)madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return memory;
}

void system_free(std::byte* memory, int64_t bytes) {
  const size_t alignment = bytes >= kHugePage ? static_cast<size_t>(kHugePage) : kAlignment;
  ::operator delete (memory, std::align_val_t{alignment});
}

}  // namespace

/// Outlives its Pool while blocks are out.
class PoolState {
 public:
  explicit PoolState(Pool::Mode mode) : shapes_only_(mode == Pool::Mode::shapes_only) {}
  ~PoolState() { trim(); }

  Block* take(int64_t bytes, MemoryKind kind) {
    SLUICE_INTERNAL_CHECK(bytes >= 0, "allocation of {} bytes", bytes);
    const int64_t size = size_class(bytes);
    const std::lock_guard lock(mutex_);
    Block*& head = free_[size];
    Block* block = head;
    if (block != nullptr) {
      head = block->next_free;
    } else {
      block = new Block;
      if (!shapes_only_) {
        try {
          block->data = system_allocate(size);
        } catch (...) {
          delete block;
          throw;
        }
        ++system_allocations_;
      }
      block->bytes = size;
      block->pool = this;
      system_bytes_ += size;
    }
    block->next_free = nullptr;
    block->kind = kind;
    ++outstanding_;
    in_use_.bytes[static_cast<size_t>(kind)] += size;
    in_use_total_ += size;
    if (in_use_total_ > peak_total_) {
      peak_total_ = in_use_total_;
      peak_ = in_use_;
    }
    return block;
  }

  void give_back(Block* block) {
    bool last = false;
    {
      const std::lock_guard lock(mutex_);
      in_use_.bytes[static_cast<size_t>(block->kind)] -= block->bytes;
      in_use_total_ -= block->bytes;
#ifndef NDEBUG
      // All-ones is a NaN: an activation read after its step shows itself.
      if (block->data != nullptr) std::memset(block->data, 0xFF, static_cast<size_t>(block->bytes));
#endif
      Block*& head = free_[block->bytes];
      block->next_free = head;
      head = block;
      last = --outstanding_ == 0 && abandoned_;
    }
    if (last) delete this;
  }

  void abandon() {
    bool last = false;
    {
      const std::lock_guard lock(mutex_);
      abandoned_ = true;
      last = outstanding_ == 0;
    }
    if (last) delete this;
  }

  void trim() {
    const std::lock_guard lock(mutex_);
    for (auto& [size, head] : free_) {
      while (head != nullptr) {
        Block* next = head->next_free;
        if (head->data != nullptr) system_free(head->data, head->bytes);
        system_bytes_ -= head->bytes;
        delete head;
        head = next;
      }
    }
  }

  [[nodiscard]] bool shapes_only() const { return shapes_only_; }
  [[nodiscard]] MemoryUse in_use() const {
    const std::lock_guard lock(mutex_);
    return in_use_;
  }
  [[nodiscard]] MemoryUse peak() const {
    const std::lock_guard lock(mutex_);
    return peak_;
  }
  [[nodiscard]] int64_t system_allocations() const {
    const std::lock_guard lock(mutex_);
    return system_allocations_;
  }
  [[nodiscard]] int64_t system_bytes() const {
    const std::lock_guard lock(mutex_);
    return system_bytes_;
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = in_use_;
    peak_total_ = in_use_total_;
  }

 private:
  const bool shapes_only_;
  mutable std::mutex mutex_;
  std::unordered_map<int64_t, Block*> free_;  // by size class: a list of blocks
  MemoryUse in_use_;
  MemoryUse peak_;
  int64_t in_use_total_ = 0;
  int64_t peak_total_ = 0;
  int64_t outstanding_ = 0;
  int64_t system_allocations_ = 0;
  int64_t system_bytes_ = 0;
  bool abandoned_ = false;
};

void release(Block* block) { block->pool->give_back(block); }

}  // namespace detail

Pool::Pool(Mode mode) : state_(new detail::PoolState(mode)) {}
Pool::~Pool() { state_->abandon(); }

BlockRef Pool::allocate(int64_t bytes, MemoryKind kind) {
  return BlockRef(state_->take(bytes, kind));
}

bool Pool::shapes_only() const { return state_->shapes_only(); }
MemoryUse Pool::in_use() const { return state_->in_use(); }
MemoryUse Pool::peak() const { return state_->peak(); }
void Pool::reset_peak() { state_->reset_peak(); }
int64_t Pool::system_allocations() const { return state_->system_allocations(); }
int64_t Pool::system_bytes() const { return state_->system_bytes(); }
void Pool::trim() { state_->trim(); }

}  // namespace sluice
