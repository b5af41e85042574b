#pragma once
// A model of another program as a checkpoint of ours.
//
//   const ImportedModel model = import_model({.source = "llama", .output = "llama.h5"});
//
// `source` is a folder with config.json, safetensors and a tokenizer, or a GGUF file. Everything is checked before a
// file is made; the weights go from the files to their place in the checkpoint, which is the only copy
// of them in memory.

#include <filesystem>
#include <string>
#include <vector>

#include "autograd/support/file.h"
#include "train/recipe.h"

namespace sluice {

struct ImportOptions {
  std::filesystem::path source;
  /// A checkpoint file ("x.h5"), or the folder of a run, which gets recipe.yaml and step 0.
  std::filesystem::path output;
  std::string tokenizer;  // a file, or "bytes"; empty: the one in `source`
};

struct ImportedModel {
  std::string family;
  std::filesystem::path checkpoint;  // written
  Recipe recipe;
  int64_t parameters = 0;
  std::vector<std::string> notes;  // what was left out, one sentence each
};

/// Throws ConfigError when a file is missing or `output` is there, CheckpointError when the model is
/// damaged or one that we cannot be, or when files cannot be written; nothing is left of `output` then.
[[nodiscard]] ImportedModel import_model(const ImportOptions& options,
                                         FileSystem& files = real_file_system());

}  // namespace sluice
