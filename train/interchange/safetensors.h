#pragma once
// safetensors files (Hugging Face): a JSON header with the place of every tensor, then their bytes.
//
//   u64 N, little-endian | N bytes of JSON, maybe padded with spaces | data
//   {"__metadata__": {"format": "pt"}, "<name>": {"dtype": "F32", "shape": [..], "data_offsets": [b, e]}}
//
// Offsets are relative to the data, which the tensors tile without gap or overlap. Large models lie in
// several files beside an index, model.safetensors.index.json.

#include "autograd/support/file.h"
#include "train/interchange/output_stream.h"
#include "train/interchange/tensor_files.h"

namespace sluice {

/// A model's tensors: `path` is a .safetensors file, an index, or the folder of either. Only F32, F16
/// and BF16 are read. Nothing of a bad file is believed: CheckpointError, one sentence, for what is
/// truncated, too long, overlapping or with gaps, larger than can be, given twice, of another type, no
/// JSON, or where index and files differ; ConfigError when there is no such file.
[[nodiscard]] TensorFiles open_safetensors(const std::filesystem::path& path);

/// Writes model.safetensors, or, when the data are more than `max_file_bytes`, several files and
/// their index, into the existing `folder`; synced. Tensors are sorted by type (wide ones first) and
/// name, and the header is padded to a multiple of 8 bytes, as the reference writer does: the same
/// tensors give the same bytes. Memory: one tensor. Throws CheckpointError.
void write_safetensors(FileSystem& files, const std::filesystem::path& folder,
                       std::vector<TensorToWrite> tensors,
                       int64_t max_file_bytes = int64_t{5} << 30);

}  // namespace sluice
