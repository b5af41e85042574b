#pragma once
// Numbers as people read them.

#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

/// 1234567 -> "1,234,567"
[[nodiscard]] std::string with_commas(int64_t value);
/// 1, "thread" -> "1 thread"; 1200, "step" -> "1,200 steps"
[[nodiscard]] std::string counted(int64_t count, std::string_view noun);
/// 34210000 -> "34.2 M"; under 10,000 as it is.
[[nodiscard]] std::string in_millions(double value);
/// 1234567 -> "1.2 MiB"
[[nodiscard]] std::string in_bytes(double bytes);
/// 95.2 -> "1m 35s"
[[nodiscard]] std::string in_time(double seconds);

/// A word that a shell reads as it is, in quotes where it must be: runs/a -> runs/a, a b -> 'a b'.
[[nodiscard]] std::string shell_word(std::string_view text);

}  // namespace sluice
