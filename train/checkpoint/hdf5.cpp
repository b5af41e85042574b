// Checkpoints as HDF5 files: the layout inside, written and read.
#include "autograd/support/hdf5.h"

#include <string_view>

#include "autograd/support/error.h"
#include "train/checkpoint/image.h"
#include "train/checkpoint/layout.h"
#include "train/checkpoint/packed_ternary.h"
#include "train/checkpoint/user_block.h"

namespace sluice {
namespace {

constexpr const char* kRecipe = "/meta/recipe";
constexpr const char* kTokenizer = "/meta/tokenizer";
constexpr std::string_view kMetaPrefix = "/meta/";
constexpr RaiseError kRaise = raise_as<CheckpointError>;

CheckpointMeta read_meta(const hdf5::File& file) {
  CheckpointMeta meta;
  meta.step = file.integer_attribute("/", "step");
  meta.tokens = file.integer_attribute("/", "tokens");
  if (file.has_attribute("/", "train_tokens")) {
    meta.train_tokens = file.integer_attribute("/", "train_tokens");
  }
  if (file.has_attribute("/", "schedule_steps")) {
    meta.schedule = {file.integer_attribute("/", "schedule_steps"),
                     file.integer_attribute("/", "schedule_tokens")};
  }
  if (file.has_attribute("/", "eval_loss")) {
    meta.eval_loss = file.number_attribute("/", "eval_loss");
  }
  meta.build = file.text_attribute("/", "build");
  meta.recipe = file.read_text(kRecipe);
  const auto tokenizer = file.read<uint8_t>(kTokenizer);
  meta.tokenizer.assign(tokenizer.begin(), tokenizer.end());
  meta.tokenizer_kind = file.text_attribute(kTokenizer, "kind");
  return meta;
}

// Calls visit(path in the StateDict, path in the file) for every array of the state.
template <class Visit>
void for_each_array(const hdf5::File& file, Visit&& visit) {
  for (const std::string& path : file.datasets()) {
    if (!path.starts_with(kMetaPrefix)) visit(path.substr(1), path);
  }
}

hdf5::File open_verified(const std::filesystem::path& path) {
  verify_user_block(path);
  return hdf5::File::open(path, kRaise);
}

}  // namespace

void write_meta(hdf5::File& file, const CheckpointMeta& meta) {
  file.set_attribute("/", "format_version", kCheckpointFormatVersion);
  file.set_attribute("/", "step", meta.step);
  file.set_attribute("/", "tokens", meta.tokens);
  if (meta.train_tokens > 0) file.set_attribute("/", "train_tokens", meta.train_tokens);
  if (meta.schedule.steps != 0 || meta.schedule.tokens != 0) {
    file.set_attribute("/", "schedule_steps", meta.schedule.steps);
    file.set_attribute("/", "schedule_tokens", meta.schedule.tokens);
  }
  if (meta.eval_loss) file.set_attribute("/", "eval_loss", *meta.eval_loss);
  file.set_attribute("/", "build", meta.build);
  file.write_text(kRecipe, meta.recipe);
  const auto tokenizer =
      std::span(reinterpret_cast<const uint8_t*>(meta.tokenizer.data()), meta.tokenizer.size());
  file.write<uint8_t>(kTokenizer, {static_cast<int64_t>(tokenizer.size())}, tokenizer);
  file.set_attribute(kTokenizer, "kind", meta.tokenizer_kind);
}

void write_checkpoint(FileSystem& files, const std::filesystem::path& path,
                      const Checkpoint& checkpoint) {
  CheckpointImage image;
  image.fill(path.string(), checkpoint);
  write_checkpoint(files, path, image);
}

Checkpoint read_checkpoint(const std::filesystem::path& path) {
  const hdf5::File file = open_verified(path);
  Checkpoint checkpoint{read_meta(file), {}};
  for_each_array(file, [&](const std::string& name, const std::string& dataset) {
    const hdf5::DatasetInfo info = file.info(dataset);
    StateArray array{info.type, info.dims, {}};
    array.bytes.resize(static_cast<size_t>(info.numel() * size_of(info.type)));
    file.read(dataset, info.type, array.bytes);
    checkpoint.state.emplace(name, std::move(array));
  });
  unpack_all(checkpoint.state, path.string());
  return checkpoint;
}

CheckpointSummary read_checkpoint_summary(const std::filesystem::path& path) {
  const hdf5::File file = open_verified(path);
  CheckpointSummary summary{read_meta(file), {}, 0};
  for_each_array(file, [&](const std::string& name, const std::string& dataset) {
    summary.arrays.emplace(name, file.info(dataset));
  });
  summary.bytes = static_cast<int64_t>(std::filesystem::file_size(path));
  return summary;
}

}  // namespace sluice
