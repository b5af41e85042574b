#pragma once
// Tensors in files of other programs, found by name and read piece by piece.
//
//   const TensorFiles files = open_safetensors("llama/model.safetensors");
//   const StoredTensor& q = *files.find("model.layers.0.self_attn.q_proj.weight");
//   std::vector<float> values(q.numel());
//   files.read(q, 0, values);
//
// The descriptions are verified before anything is read: every tensor lies inside its file.

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "train/interchange/stored_type.h"

namespace sluice {

struct StoredTensor {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<int64_t> dims;  // outermost first; empty for a scalar
  size_t file = 0;            // number of its file
  int64_t offset = 0;         // of its first byte in that file

  [[nodiscard]] int64_t numel() const;
};

/// A file that is read at any place. Throws CheckpointError.
class InputFile {
 public:
  explicit InputFile(std::filesystem::path path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  [[nodiscard]] int64_t bytes() const { return bytes_; }
  [[nodiscard]] std::string name() const { return path_.string(); }
  /// Fills `into` from byte `offset` on; a file that ends before is an error.
  void read(int64_t offset, std::span<std::byte> into) const;

 private:
  std::filesystem::path path_;
  int descriptor_;
  int64_t bytes_ = 0;
};

/// Product of `dims` in elements; nullopt past 2^48, or for a negative size.
[[nodiscard]] std::optional<int64_t> checked_numel(std::span<const int64_t> dims);

class TensorFiles {
 public:
  /// Number of the file.
  size_t add(std::unique_ptr<InputFile> file);
  [[nodiscard]] const InputFile& file(size_t number) const { return *files_[number]; }
  /// Throws CheckpointError when there is one of its name already.
  void add(StoredTensor tensor);

  /// By name.
  [[nodiscard]] const std::map<std::string, StoredTensor, std::less<>>& tensors() const {
    return tensors_;
  }
  /// Null when there is none.
  [[nodiscard]] const StoredTensor* find(std::string_view name) const;
  /// Elements first .. first + values.size() - 1, widened. Takes memory for a megabyte at most.
  void read(const StoredTensor& tensor, int64_t first, std::span<float> values) const;
  /// "folder/model.safetensors: model.norm.weight"
  [[nodiscard]] std::string where(const StoredTensor& tensor) const;

 private:
  std::vector<std::unique_ptr<InputFile>> files_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

}  // namespace sluice
