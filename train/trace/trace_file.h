#pragma once
// Reads a routing trace (layout: trace.h), any range of its tokens at a time.
//
//   const TraceFile trace("runs/a/traces/held_out_00000200.h5");
//   const std::vector<int32_t> chosen = trace.experts(layer, begin, end);   // [end - begin, k]

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "autograd/support/hdf5.h"
#include "train/trace/trace.h"

namespace sluice {

class TraceFile {
 public:
  /// Reads what describes the routes, not the routes. Throws DataError, one sentence, for a file
  /// that is missing, truncated, no trace, of a newer format, or that contradicts itself.
  explicit TraceFile(std::filesystem::path path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const TraceMeta& meta() const { return meta_; }
  [[nodiscard]] int64_t tokens() const { return tokens_; }

  /// A sequence: the tokens [begin, end).
  struct Sequence {
    uint64_t sample = 0;
    int64_t begin = 0;
    int64_t end = 0;
    int64_t micro_batch = 0;
  };
  [[nodiscard]] const std::vector<Sequence>& sequences() const { return sequences_; }
  /// The index of the sequence with this number, -1 without.
  [[nodiscard]] int64_t find(uint64_t sample) const;
  [[nodiscard]] int64_t documents() const { return std::ssize(document_ends_); }

  [[nodiscard]] std::vector<int32_t> token_ids(int64_t begin, int64_t end) const;  // [end - begin]
  [[nodiscard]] std::vector<uint8_t> counted(int64_t begin, int64_t end) const;    // [end - begin]
  /// Domain of each token: an index into meta().domains. [end - begin]
  [[nodiscard]] std::vector<int32_t> domains(int64_t begin, int64_t end) const;

  /// `layer` is one of meta().layers.
  struct Layer {
    int64_t number = 0;
    int64_t experts = 0;         // E
    int64_t top_k = 0;           // asked for
    int64_t width = 0;           // slots per token in the file, k
    bool shifted = false;        // Selection::shifted
    bool has_dropped = false;    // capacity dropped something
    bool has_plan = false;       // a balancer made weights of its own
    std::vector<int64_t> slots;  // [S]: slots per token as they were routed
    std::vector<int64_t> plan_ends;
  };
  [[nodiscard]] bool has(int64_t layer) const;
  [[nodiscard]] const Layer& layer(int64_t layer) const;
  /// kNoExpert for an empty slot. [end - begin, width]
  [[nodiscard]] std::vector<int32_t> experts(int64_t layer, int64_t begin, int64_t end) const;
  [[nodiscard]] std::vector<float> weights(int64_t layer, int64_t begin, int64_t end) const;
  /// 1 where the assignment was dropped; empty for a layer that dropped nothing.
  [[nodiscard]] std::vector<uint8_t> dropped(int64_t layer, int64_t begin, int64_t end) const;
  /// Selection::plan of one micro-batch.
  [[nodiscard]] std::vector<double> plan(int64_t layer, int64_t micro_batch) const;

 private:
  template <Element T>
  [[nodiscard]] std::vector<T> rows(const std::string& path, int64_t begin, int64_t end,
                                    int64_t width) const;
  void read_meta();
  void read_sequences();
  void read_documents();
  void read_layer(int64_t number);
  void check(bool good, std::string_view what) const;
  void check_rows(const std::string& path, int64_t rows) const;
  void check_ends(const std::vector<int64_t>& ends, int64_t last, std::string_view what) const;

  std::filesystem::path path_;
  hdf5::File file_;
  TraceMeta meta_;
  int64_t tokens_ = 0;
  bool small_ids_ = false;
  std::vector<Sequence> sequences_;
  std::unordered_map<uint64_t, int64_t> index_of_;
  std::vector<int64_t> document_ends_;
  std::vector<uint16_t> document_domains_;
  std::vector<Layer> layers_;
};

/// True for an HDF5 file without a checkpoint's header: a trace, or something else that is none.
[[nodiscard]] bool looks_like_trace(const std::filesystem::path& path);

}  // namespace sluice
