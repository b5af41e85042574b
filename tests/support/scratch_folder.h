#pragma once
// A folder of its own for a test that writes files, removed at the end.

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "autograd/support/error.h"

namespace sluice::testing {

class ScratchFolder {
 public:
  ScratchFolder() {
    // In memory where there is such a place: syncing a busy disk takes seconds.
    std::error_code absent;
    const std::filesystem::path memory = "/dev/shm";
    const auto parent = std::filesystem::is_directory(memory, absent)
                            ? memory
                            : std::filesystem::temp_directory_path();
    std::string pattern = (parent / "sluice_test_XXXXXX").string();
    SLUICE_INTERNAL_CHECK(::mkdtemp(pattern.data()) != nullptr, "cannot create {}", pattern);
    path_ = pattern;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(const std::string& name) const {
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace sluice::testing
