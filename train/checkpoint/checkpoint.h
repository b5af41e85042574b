#pragma once
// A checkpoint: everything that a run needs to go on as if it had never stopped, in one file.
//
//   Checkpoint c{{.step = 200, .tokens = 1638400, .recipe = text, ...}, state};
//   write_checkpoint(real_file_system(), "runs/a/checkpoints/step_00000200.h5", c);
//   Checkpoint back = read_checkpoint("runs/a/checkpoints/step_00000200.h5");
//
// The file is an HDF5 file behind a user block of 512 bytes:
//
//   offset  0  magic, 16 bytes           16  u32 format version       20  u32 size of the user
//   block
//          24  u64 bytes that follow     32  u64 XXH64 of those bytes 40  u64 XXH64 of the 40 bytes
//          before 48  zeros                                                       (all
//          little-endian)
//
// All of it is verified before the HDF5 library sees a byte. Inside: /model/<parameter>,
// /optim/..., /balance/..., /data/... (the paths of the StateDict), /meta/recipe (text),
// /meta/tokenizer (bytes, with its kind), and attributes of "/" for format version, step, tokens,
// held-out loss and build. Ternary arrays may be packed (packed_ternary.h). `h5ls -r`, `h5dump` and h5py
// read it.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "autograd/core/state.h"
#include "autograd/support/file.h"
#include "autograd/support/hdf5.h"

namespace sluice {

/// Raised when the layout changes so that older programs cannot read it.
inline constexpr int64_t kCheckpointFormatVersion = 1;

/// How far schedules are ahead of the run's own count, below 0 behind it: not 0 for a run that kept the
/// schedules of the model it comes from and not its steps, or the other way round.
struct ScheduleOffset {
  int64_t steps = 0;
  int64_t tokens = 0;
};

struct CheckpointMeta {
  int64_t step = 0;    // optimizer steps done
  int64_t tokens = 0;  // training tokens consumed
  ScheduleOffset schedule = {};
  /// Tokens of one pass over the training data, so that schedules in epochs need no data; 0 when
  /// unknown.
  int64_t train_tokens = 0;
  /// Language-model loss on the held-out split at this step, in nats per token; absent when it was
  /// not evaluated.
  std::optional<double> eval_loss;
  std::string recipe;          // the resolved recipe, YAML text
  std::string tokenizer_kind;  // its registered name: "bytes", "sentencepiece"
  std::string tokenizer;       // the tokenizer's own bytes
  std::string build;           // build_fingerprint() of the program that wrote the file
};

struct Checkpoint {
  CheckpointMeta meta;
  StateDict state;
};

/// What a checkpoint holds, without the arrays.
struct CheckpointSummary {
  CheckpointMeta meta;
  std::map<std::string, hdf5::DatasetInfo> arrays;  // by path in the StateDict
  int64_t bytes = 0;                                // of the file
};

/// Replaces `path` atomically. The same checkpoint always gives the same bytes. Throws
/// CheckpointError (full disk, no permission, ...), and then `path` is as it was and no temporary
/// file is left. Holds the file in memory while writing.
void write_checkpoint(FileSystem& files, const std::filesystem::path& path,
                      const Checkpoint& checkpoint);

/// Throws CheckpointError, one sentence, for a file that is missing, truncated, damaged, no
/// checkpoint, or of a newer format. Nothing of a bad file is believed.
[[nodiscard]] Checkpoint read_checkpoint(const std::filesystem::path& path);

/// Verifies the whole file like read_checkpoint, and reads only what describes it.
[[nodiscard]] CheckpointSummary read_checkpoint_summary(const std::filesystem::path& path);

/// Compiler and instruction set of this program: equal texts promise bitwise equal continuation.
[[nodiscard]] std::string build_fingerprint();

}  // namespace sluice
