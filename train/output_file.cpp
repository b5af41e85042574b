#include "train/output_file.h"

#include "autograd/support/error.h"

namespace sluice {

void check_new_file(std::string_view flag, const std::filesystem::path& path) {
  SLUICE_CHECK(ConfigError, !std::filesystem::exists(path),
               "{}: {} exists; remove it or name another file", flag, path.string());
  const std::filesystem::path folder = path.parent_path();
  SLUICE_CHECK(ConfigError, folder.empty() || std::filesystem::is_directory(folder),
               "{}: {}: no such folder", flag, folder.string());
}

}  // namespace sluice
