#include "autograd/support/copy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace sluice {
namespace {

TEST(CopyStreaming, CopiesEveryByteAndNoneBeside) {
  constexpr size_t kMost = (size_t{2} << 20) + 100;
  alignas(64) static std::byte from[kMost + 128];
  alignas(64) static std::byte to[kMost + 128];
  for (size_t i = 0; i < sizeof(from); ++i) from[i] = static_cast<std::byte>(i * 7 + i / 4096);
  constexpr auto kUntouched = std::byte{0xEE};
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{63}, size_t{16384}, size_t{16385},
                             size_t{1} << 20, (size_t{1} << 20) + 16384 + 5, kMost}) {
    for (const size_t source : {0, 64, 8}) {
      for (const size_t target : {0, 64, 1}) {
        std::fill(std::begin(to), std::end(to), kUntouched);
        copy_streaming({from + source, bytes}, to + target);
        EXPECT_TRUE(std::equal(to + target, to + target + bytes, from + source)) << bytes;
        const auto is_untouched = [&](std::byte b) { return b == kUntouched; };
        EXPECT_TRUE(std::all_of(to, to + target, is_untouched)) << bytes;
        EXPECT_TRUE(std::all_of(to + target + bytes, std::end(to), is_untouched)) << bytes;
      }
    }
  }
}

}  // namespace
}  // namespace sluice
