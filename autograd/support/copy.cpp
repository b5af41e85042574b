#include "autograd/support/copy.h"

#include <cstdint>
#include <cstring>

#include "autograd/support/parallel.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace sluice {
namespace {

constexpr int64_t kRange = int64_t{1} << 20;

#if defined(__SSE2__)
constexpr size_t kLine = 64;
constexpr size_t kPage = 4096;
/// Pages copied side by side: a core gets more from memory by several streams than by one.
constexpr size_t kStreams = 4;

bool starts_a_line(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kLine == 0;
}

void stream_line(const std::byte* from, std::byte* to) {
  for (size_t i = 0; i < kLine; i += sizeof(__m128i)) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm_load_si128(reinterpret_cast<const __m128i*>(from + i)));
  }
}

void copy_range(const std::byte* from, std::byte* to, size_t bytes) {
  size_t done = 0;
  if (starts_a_line(from) && starts_a_line(to)) {
    for (; done + kStreams * kPage <= bytes; done += kStreams * kPage) {
      for (size_t line = 0; line < kPage; line += kLine) {
        for (size_t page = 0; page < kStreams; ++page) {
          const size_t at = done + page * kPage + line;
          stream_line(from + at, to + at);
        }
      }
    }
    _mm_sfence();  // such stores are ordered with others by this alone
  }
  std::memcpy(to + done, from + done, bytes - done);
}
#else
void copy_range(const std::byte* from, std::byte* to, size_t bytes) {
  std::memcpy(to, from, bytes);
}
#endif

}  // namespace

void copy_streaming(std::span<const std::byte> from, std::byte* to) {
  parallel_for_ranges(std::ssize(from), kRange, [&](int64_t begin, int64_t end) {
    copy_range(from.data() + begin, to + begin, static_cast<size_t>(end - begin));
  });
}

}  // namespace sluice
