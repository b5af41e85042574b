#pragma once
// Files that a flag names and a command writes.

#include <filesystem>
#include <string_view>

namespace sluice {

/// Throws ConfigError, naming the flag, unless `path` is free and its folder exists: a command
/// writes over nothing.
void check_new_file(std::string_view flag, const std::filesystem::path& path);

}  // namespace sluice
