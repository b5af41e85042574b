#pragma once
// Input files: those that a recipe names.

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// The whole content of a file. Throws ConfigError when there is none, since a recipe named it, and
/// DataError when it cannot be read.
[[nodiscard]] std::string read_input_file(const std::string& path);

/// `path` itself when it is a file; the files below it, hidden ones left out, sorted by path, when
/// it is a folder; of a folder only those with one of `extensions` ("jsonl"), unless there are
/// none. Throws ConfigError when `path` does not exist.
[[nodiscard]] std::vector<std::string> files_at(
    const std::string& path, std::initializer_list<std::string_view> extensions = {});

/// Lower-case extension without the dot; empty when there is none.
[[nodiscard]] std::string extension_of(const std::string& path);

}  // namespace sluice
