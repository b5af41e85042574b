#pragma once
// A checkpoint of ours as a folder that other programs read: config.json, safetensors, tokenizer.
//
//   export_model(checkpoint, "runs/a/checkpoints/step_00000200.h5", {.output = "a-hf"});

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "train/checkpoint/checkpoint.h"
#include "train/interchange/stored_type.h"

namespace sluice {

enum class ExportFormat : uint8_t { safetensors, gguf };

struct ExportOptions {
  std::filesystem::path output;  // a folder, or of gguf a file, that is not there yet
  ExportFormat format = ExportFormat::safetensors;
  std::string family;                 // empty: the first that can hold the model
  StoredType type = StoredType::f32;  // f32, f16 or bf16; of gguf also q8_0
  int64_t max_file_bytes = int64_t{5} << 30;
  /// Leaves a balancing method's shift of the choice out, which no other family can hold.
  bool drop_selection_shift = false;
};

struct ExportedModel {
  std::string family;
  int64_t tensors = 0;
  std::vector<std::string> notes;  // what was merged or left out, one sentence each
};

/// Adapters are merged first (transforms/merge_adapters.h), as no family has them. `source` (a file
/// name) stands in messages. Throws ConfigError when the family, or none, can hold the model, no
/// matrices can take its adapters in, or its experts are not made yet, saying why; CheckpointError when
/// the checkpoint does not fit its recipe, the type cannot hold a number, or files cannot be written. The
/// folder appears whole or not at all.
ExportedModel export_model(const Checkpoint& checkpoint, const std::string& source,
                           const ExportOptions& options, FileSystem& files = real_file_system());

}  // namespace sluice
