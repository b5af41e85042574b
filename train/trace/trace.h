#pragma once
// A routing trace: which experts every token went to, with which weights, in one HDF5 file.
//
//   /                    attributes sluice_trace (format version), kind ("training", "held_out"),
//                        step, vocab_size
//   /meta/experts        [L] i64   experts E of every expert layer of the model
//   /meta/layers         [R] i64   the recorded expert layers, ascending
//   /meta/domains        text      one name per line
//   /meta/tokenizer      [bytes] u8 with its kind as an attribute; held-out traces only
//   /tokens/id           [N] u16, or u32 for a vocabulary above 65,536
//   /tokens/counted      [N] u8    1 where the token has a loss
//   /sequences/end       [S] i64   one past the sequence's last token
//   /sequences/sample    [S] u64   the sequence's number in the run or pass
//   /sequences/micro_batch [S] u32
//   /documents/end       [G] i64   one past the last token of a document piece
//   /documents/domain    [G] u16   line of /meta/domains
//   /layers/<l>/expert   [N, k] u8 (255: empty slot), or u16 (65535) from 255 experts on; best first
//   /layers/<l>/weight   [N, k] f32, combine weights as they were used
//   /layers/<l>/dropped  [N, k] u8, 1 where capacity dropped the assignment; absent when none was
//   /layers/<l>/slots    [S] u16   slots per token in the sequence's micro-batch; at most k
//   /layers/<l>/plan     [P] f64   what a balancer's own weights are made of, micro-batch after
//   /layers/<l>/plan_end [B] i64   micro-batch; absent where there is none
//                        /layers/<l> has attributes top_k (asked for) and shifted (0, 1)
//
// The tokens of a training step, in the order in which they were routed, or of one pass over
// held-out text. A training run writes RUN/traces/step_00000012.h5 for its 12th step, and
// RUN/traces/held_out_00000012.h5 for the evaluation after it. Files appear whole or not at all, and
// every table carries checksums that an HDF5 library verifies.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

inline constexpr int64_t kTraceFormatVersion = 1;

enum class TraceKind : uint8_t { training, held_out };
[[nodiscard]] std::string_view name_of(TraceKind kind);

struct TraceMeta {
  TraceKind kind = TraceKind::training;
  /// Training: the step that was routed, from 1. Held out: steps that the model has done.
  int64_t step = 0;
  int64_t vocab_size = 0;
  std::vector<int64_t> experts;      // of every expert layer of the model
  std::vector<int64_t> layers;       // recorded, ascending; empty stands for all, when writing
  std::vector<std::string> domains;  // of the data
  std::string tokenizer_kind;        // empty without one
  std::string tokenizer;
};

/// "training step 12", "held-out text after step 12"
[[nodiscard]] std::string what_is_traced(TraceKind kind, int64_t step);

/// "/layers/3/expert"
[[nodiscard]] std::string layer_path(int64_t layer, std::string_view name);

/// The traces of a run, in one folder.
class TraceFolder {
 public:
  explicit TraceFolder(std::filesystem::path folder) : folder_(std::move(folder)) {}
  [[nodiscard]] const std::filesystem::path& path() const { return folder_; }
  [[nodiscard]] std::filesystem::path path_of(TraceKind kind, int64_t step) const;
  /// Steps for which there is a file, in increasing order; nothing is verified.
  [[nodiscard]] std::vector<int64_t> steps(TraceKind kind) const;
  /// Removes what a run left that went on behind `step`; -1 removes all. Also removes temporaries.
  void truncate_after(int64_t step) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace sluice
