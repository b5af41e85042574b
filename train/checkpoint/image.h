#pragma once
// The file of a checkpoint in memory. It is laid out before anything is copied, so that the state is
// copied once, by all threads, from where training has it to where the file has it; and its memory
// is kept from one checkpoint to the next.
//
//   CheckpointImage image;
//   image.fill(meta, [&](StateVisitor& v) { run.visit_state(v); });    // training waits for this
//   write_checkpoint(real_file_system(), path, image);                 // in the background
//
// The caller's thread pays for one pass over the state; checksum and disk are the writer's.

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "autograd/support/pool.h"
#include "train/checkpoint/checkpoint.h"

namespace sluice {

/// An array of a state, described.
struct StateArrayShape {
  std::string path;
  ElementType type = ElementType::f32;
  std::vector<int64_t> dims;
};

class CheckpointImage {
 public:
  CheckpointImage() = default;
  CheckpointImage(const CheckpointImage&) = delete;
  CheckpointImage& operator=(const CheckpointImage&) = delete;

  /// Takes memory for a state of `state_bytes` now, all of it, so that the first fill() need not.
  void reserve(int64_t state_bytes);
  /// Replaces what it holds. `visit_state` is called twice, and shows the same arrays both times; one
  /// array shown under two paths, or two under one, is a bug of ours (InternalError). Throws
  /// CheckpointError, with `name` (a file) in front.
  void fill(const std::string& name, const CheckpointMeta& meta,
            FunctionRef<void(StateVisitor&)> visit_state);
  void fill(const std::string& name, const Checkpoint& checkpoint);
  /// For a state that is nowhere in memory: `write(i, elements)` makes those of arrays[i] at their
  /// place, which starts at a multiple of 16; called once for each, in their order.
  void fill(const std::string& name, const CheckpointMeta& meta,
            std::span<const StateArrayShape> arrays,
            FunctionRef<void(size_t, std::span<std::byte>)> write);

  /// The whole file, at a multiple of kDirectAlignment; its user block is zeros.
  [[nodiscard]] std::span<const std::byte> bytes() const;
  [[nodiscard]] std::span<std::byte> bytes();
  /// Memory held, in use or not.
  [[nodiscard]] int64_t memory_bytes() const;

 private:
  struct Field;
  void lay_out(const std::string& name, const CheckpointMeta& meta, std::vector<Field>& fields);
  void take_memory(int64_t bytes);

  Pool pool_;
  BlockRef memory_;
  int64_t memory_bytes_ = 0;
  int64_t file_bytes_ = 0;
};

/// Completes the image by its user block and replaces `path` by it, atomically; throws like the other
/// write_checkpoint.
void write_checkpoint(FileSystem& files, const std::filesystem::path& path, CheckpointImage& image);

}  // namespace sluice
