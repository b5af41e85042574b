#pragma once
// The first 512 bytes of a checkpoint: what it is, how long it is, and the hash of the rest
// (layout: checkpoint.h).

#include <array>
#include <cstddef>
#include <filesystem>
#include <span>

namespace sluice {

inline constexpr size_t kUserBlockBytes = 512;
using UserBlock = std::array<std::byte, kUserBlockBytes>;

[[nodiscard]] UserBlock make_user_block(std::span<const std::byte> contents);

/// Reads the whole file once. Throws CheckpointError saying which of these it is: missing, empty,
/// no checkpoint, damaged header, newer format, truncated, longer than written, damaged contents.
void verify_user_block(const std::filesystem::path& path);

}  // namespace sluice
