#pragma once
// One parallel loop over several arrays: the blocks of all of them are one pool of work, so that a
// small array costs no loop of its own and the last block of a large one keeps no thread waiting.
//
//   ArenaScope scratch(thread_arena());
//   const PartBlocks blocks(scratch, count, [&](int64_t part) { return arrays[part].n; });
//   blocks.for_each([&](const PartBlock& b) { ... arrays[b.part], elements b.begin .. b.end ... });

#include <algorithm>
#include <cstdint>

#include "autograd/kernels/rows.h"

namespace sluice::kernels {

/// Elements begin .. end of array `part`; at most kElementBlock of them, fewer only at its end.
struct PartBlock {
  int64_t index;  // among the blocks of all arrays
  int64_t part;
  int64_t begin;
  int64_t end;
};

/// The cut depends on the sizes alone. Lives as long as `scratch`.
class PartBlocks {
 public:
  template <class SizeOf>
  PartBlocks(ArenaScope& scratch, int64_t parts, SizeOf&& size_of)
      : parts_(parts),
        sizes_(scratch.allocate<int64_t>(parts)),
        first_(scratch.allocate<int64_t>(parts + 1)) {
    first_[0] = 0;
    for (int64_t part = 0; part < parts; ++part) {
      sizes_[part] = size_of(part);
      first_[part + 1] = first_[part] + ceil_div(sizes_[part], kElementBlock);
    }
  }

  [[nodiscard]] int64_t count() const { return first_[parts_]; }
  /// The index of the first block of `part`, which is that of the next array when it is empty.
  [[nodiscard]] int64_t first(int64_t part) const { return first_[part]; }

  [[nodiscard]] PartBlock at(int64_t index) const {
    const int64_t part = std::upper_bound(first_, first_ + parts_ + 1, index) - first_ - 1;
    const int64_t begin = (index - first_[part]) * kElementBlock;
    return {index, part, begin, std::min(sizes_[part], begin + kElementBlock)};
  }

  /// body(block) for each block, in parallel.
  template <class Body>
  void for_each(Body&& body) const {
    parallel_for(count(), [&](int64_t index) { body(at(index)); });
  }

 private:
  int64_t parts_;
  int64_t* sizes_;
  int64_t* first_;  // [parts + 1]: the blocks of the arrays before
};

}  // namespace sluice::kernels
