#pragma once
// What one step trains on: packed sequences of real tokens, without padding.
//
// N tokens in S sequences; a sequence is a run of document pieces, and a piece never crosses a
// sequence. Attention, positions and everything else that must not see its neighbours follow
// `document_offsets`. A global batch and the micro-batches cut from it (`slice_sequences`) are the
// same type.

#include <cstdint>
#include <vector>

namespace sluice {

/// The target of a token whose prediction is not learned: the last token of a document, a prompt.
inline constexpr int32_t kIgnoredTarget = -100;

struct Batch {
  std::vector<int32_t> tokens;                  // [N]
  std::vector<int32_t> targets;                 // [N] the next token, or kIgnoredTarget
  std::vector<int32_t> positions;               // [N] from 0 in each document piece
  std::vector<int64_t> sequence_offsets = {0};  // [S + 1] into tokens
  std::vector<int64_t> document_offsets = {
      0};                                // [documents + 1] into tokens; contains sequence_offsets
  std::vector<int32_t> document_domain;  // [documents] index into the data set's domains
  std::vector<uint64_t> global_sample;   // [S] unique over the run: the key of randomness

  [[nodiscard]] int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  [[nodiscard]] int64_t num_sequences() const { return static_cast<int64_t>(global_sample.size()); }
  /// Document pieces; a document that was cut counts once per piece.
  [[nodiscard]] int64_t num_documents() const {
    return static_cast<int64_t>(document_domain.size());
  }
  /// Tokens whose target counts in the loss.
  [[nodiscard]] int64_t valid_targets() const;
  /// For each token the index of its document piece in this batch, [N].
  [[nodiscard]] std::vector<int32_t> document_of_token() const;
  /// The sequences [begin, end) as a batch of their own: offsets start at 0, global samples are
  /// kept. A range outside [0, S] is an InternalError.
  [[nodiscard]] Batch slice_sequences(int64_t begin, int64_t end) const;
  /// The same, into `result`, whose memory is reused.
  void slice_sequences(int64_t begin, int64_t end, Batch& result) const;
  /// Adds the sequences of `other` after those here.
  void append(const Batch& other);
  /// Ends the sequence under construction at the last token added; `sample` is its global sample.
  void end_sequence(uint64_t sample);
  /// Throws InternalError unless the offsets, sizes and positions agree with each other.
  void check() const;

  friend bool operator==(const Batch&, const Batch&) = default;
};

}  // namespace sluice
