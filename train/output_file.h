#pragma once
// Files that a flag names and a command writes.

#include <filesystem>
#include <string_view>

#include "autograd/support/file.h"

namespace sluice {

/// Throws ConfigError, naming the flag, unless `path` is free and its folder exists: a command
/// writes over nothing.
void check_new_file(std::string_view flag, const std::filesystem::path& path);

/// "DIR/" as "DIR", which is what can be made and named.
[[nodiscard]] std::filesystem::path without_last_slash(const std::filesystem::path& path);

/// A folder that appears under its name when it is complete, as PendingFile does of a file. Unless it
/// was published, nothing is left of it.
class PendingFolder {
 public:
  /// Makes an empty folder beside `path`. Throws CheckpointError.
  PendingFolder(FileSystem& files, std::filesystem::path path);
  ~PendingFolder();
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;

  /// Where its files are written, synced.
  [[nodiscard]] const std::filesystem::path& path() const { return name_.temporary(); }
  /// Gives it its name, durably. Throws CheckpointError.
  void publish() { name_.rename(); }

 private:
  PendingFile name_;
};

}  // namespace sluice
