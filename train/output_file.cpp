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

std::filesystem::path without_last_slash(const std::filesystem::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

PendingFolder::PendingFolder(FileSystem& files, std::filesystem::path path)
    : name_(files, std::move(path), raise_as<CheckpointError>) {
  std::error_code error;
  const bool is_new = std::filesystem::create_directory(this->path(), error);
  SLUICE_CHECK(CheckpointError, is_new, "{}: cannot create: {}", this->path().string(),
               error ? error.message() : "it exists; remove it");
}

PendingFolder::~PendingFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path(), ignored);
}

}  // namespace sluice
