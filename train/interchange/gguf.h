#pragma once
// GGUF files (ggml, llama.cpp), versions 2 and 3: keys with values, then tensors, in one file.
//
//   "GGUF" | u32 version | u64 tensors | u64 keys | keys | descriptions of tensors | padding | data
//   text: u64 length, bytes;   key: text, u32 type, value;   array: u32 type, u64 count, values
//   tensor: text, u32 dimensions, u64 sizes (innermost first), u32 type, u64 offset in the data
//
// All little-endian. Data begin at a multiple of general.alignment (32), as does every tensor in them.

#include <nlohmann/json.hpp>

#include "autograd/support/file.h"
#include "train/interchange/safetensors.h"
#include "train/interchange/tensor_files.h"

namespace sluice {

struct GgufFile {
  nlohmann::json keys = nlohmann::json::object();
  TensorFiles tensors;
};

/// Nothing of a bad file is believed: CheckpointError, one sentence, for what is truncated, of another
/// version or type, overlaps, is given twice or larger than can be.
[[nodiscard]] GgufFile open_gguf(const std::filesystem::path& path);

/// A key and its value: text, bool, u32 (a whole number), f32, or an array of texts, f32 or i32.
using GgufKeys = std::vector<std::pair<std::string, nlohmann::json>>;

/// Replaces `path`; tensors in the order given. Memory: one tensor. Throws CheckpointError.
void write_gguf(FileSystem& files, const std::filesystem::path& path, const GgufKeys& keys,
                std::span<const TensorToWrite> tensors);

}  // namespace sluice
