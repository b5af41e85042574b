#pragma once
// Input files: those that a recipe names.

#include <string>
#include <vector>

namespace sluice {

/// The whole content of a file. Throws ConfigError when there is none, since a recipe named it, and
/// DataError when it cannot be read.
[[nodiscard]] std::string read_input_file(const std::string& path);

/// `path` itself when it is a file; the files below it, hidden ones left out, sorted by path, when
/// it is a folder; with `extension` not empty ("jsonl") only those. Throws ConfigError when `path`
/// does not exist.
[[nodiscard]] std::vector<std::string> files_at(const std::string& path,
                                                const std::string& extension = {});

/// Lower-case extension without the dot; empty when there is none.
[[nodiscard]] std::string extension_of(const std::string& path);

}  // namespace sluice
