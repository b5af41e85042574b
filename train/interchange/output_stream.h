#pragma once
// A new file that is written from front to back, and tensors written to it.

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "autograd/support/file.h"
#include "train/interchange/stored_type.h"

namespace sluice {

/// A tensor to be written: `fill` makes its elements, all of them, once.
struct TensorToWrite {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<int64_t> dims;
  std::function<void(std::span<float>)> fill;
};

/// Throws CheckpointError.
class OutputStream {
 public:
  /// The file must not be there.
  OutputStream(FileSystem& files, std::filesystem::path path);
  ~OutputStream();
  OutputStream(const OutputStream&) = delete;
  OutputStream& operator=(const OutputStream&) = delete;

  void write(std::span<const std::byte> bytes);
  /// Syncs and closes.
  void finish();

 private:
  void check(bool is_done, const char* what) const;

  FileSystem& files_;
  std::filesystem::path path_;
  int descriptor_;
};

/// Its elements, in its type. Throws CheckpointError for a number that the type cannot hold.
void write_tensor(OutputStream& file, const TensorToWrite& tensor);

}  // namespace sluice
