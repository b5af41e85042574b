#include "autograd/support/arena.h"

#include <algorithm>

namespace sluice {
namespace {
constexpr size_t kFirstChunkBytes = size_t{1} << 20;
}

void* Arena::allocate_bytes(size_t bytes) {
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  while (current_ < chunks_.size() && used_ + rounded > chunks_[current_].size) {
    ++current_;
    used_ = 0;
  }
  if (current_ == chunks_.size()) {
    const size_t grown = chunks_.empty() ? kFirstChunkBytes : chunks_.back().size * 2;
    const size_t size = std::max(rounded, grown);
    auto* memory = static_cast<std::byte*>(::operator new[](size, std::align_val_t{kAlignment}));
    chunks_.push_back({std::unique_ptr<std::byte[], Free>(memory), size});
    used_ = 0;
  }
  std::byte* result = chunks_[current_].memory.get() + used_;
  used_ += rounded;
  return result;
}

Arena& thread_arena() {
  thread_local Arena arena;
  return arena;
}

}  // namespace sluice
