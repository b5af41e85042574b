#include "train/dump_logits.h"

#include <algorithm>

#include "autograd/ops/reshape.h"
#include "autograd/support/hdf5.h"
#include "train/find_checkpoint.h"
#include "train/generate.h"
#include "train/output_file.h"

namespace sluice {
namespace {

/// Rows of logits that are made at a time: [256, V] of a large vocabulary is some 100 MB.
constexpr int64_t kRowsAtATime = 256;
constexpr RaiseError kRaise = raise_as<DataError>;

void check_tokens(const TokenFile& tokens, const TrainedModel& trained, const std::string& name) {
  const int64_t vocabulary = trained.model->vocab_size();
  SLUICE_CHECK(DataError, !tokens.tokens.empty(), "{}: holds no token", name);
  const auto bad = std::ranges::find_if(
      tokens.tokens, [&](int32_t token) { return token < 0 || token >= vocabulary; });
  SLUICE_CHECK(DataError, bad == tokens.tokens.end(),
               "{}: token {} is {}, the vocabulary has {} (another --raw-type?)", name,
               bad - tokens.tokens.begin(), *bad, vocabulary);
}

void check_lengths(const std::vector<int64_t>& offsets, const TrainedModel& trained,
                   const std::string& name) {
  const auto context = max_context(trained.recipe.model);
  for (size_t i = 0; context && i + 1 < offsets.size(); ++i) {
    const int64_t length = offsets[i + 1] - offsets[i];
    SLUICE_CHECK(DataError, length <= *context,
                 "{}: document {} has {} tokens, the model reads at most {}; cut the file", name, i,
                 length, *context);
  }
}

std::vector<float> as_floats(const Tensor& tensor) {
  return dispatch_float(tensor.dtype(), [&]<class T>() {
    const auto values = tensor.span<T>();
    std::vector<float> result;
    result.reserve(values.size());
    for (const T value : values) result.push_back(static_cast<float>(value));
    return result;
  });
}

/// Writes the logits of one document from `first_row` on.
void write_document(TrainedModel& trained, std::span<const int32_t> tokens, int64_t first_row,
                    hdf5::File& file) {
  const auto count = static_cast<int64_t>(tokens.size());
  Tape tape(*trained.pool);
  const NoGrad no_grad(tape);
  const SequenceLayout layout = SequenceLayout::single(*trained.pool, count);
  const ForwardContext context{.tape = tape,
                               .layout = layout,
                               .routing = trained.routing.get(),
                               .progress = progress_of(trained.recipe, trained.meta)};
  const Tensor hidden =
      trained.model->forward(context, Tensor::of<int32_t>(*trained.pool, {count}, tokens)).hidden;
  for (int64_t begin = 0; begin < count; begin += kRowsAtATime) {
    const int64_t end = std::min(begin + kRowsAtATime, count);
    const Tensor logits =
        trained.model->logits(context, slice_rows(tape, hidden, begin, end));  // [rows, V]
    file.write_rows<float>("/logits", first_row + begin, as_floats(logits));
  }
}

}  // namespace

void dump_logits(TrainedModel& trained, const TokenFile& tokens, const DumpLogitsOptions& options) {
  check_new_file("--dump-logits", options.output);
  check_tokens(tokens, trained, options.tokens_name);
  std::vector<int64_t> offsets = tokens.document_offsets;
  if (offsets.empty()) offsets = {0, std::ssize(tokens.tokens)};
  check_lengths(offsets, trained, options.tokens_name);

  PendingFile output(real_file_system(), options.output, kRaise);
  hdf5::File file = hdf5::File::create(output.temporary(), kRaise, options.output);
  file.set_attribute("/", "checkpoint", std::string_view(options.checkpoint_name));
  file.set_attribute("/", "step", trained.meta.step);
  file.write<int32_t>("/tokens", {std::ssize(tokens.tokens)}, tokens.tokens);
  file.write<int64_t>("/document_offsets", {std::ssize(offsets)}, offsets);
  const std::vector<int64_t> dims = {std::ssize(tokens.tokens), trained.model->vocab_size()};
  file.create_dataset("/logits", ElementType::f32, dims);
  trained.routing->begin_evaluation();
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    const auto begin = static_cast<size_t>(offsets[i]);
    const auto length = static_cast<size_t>(offsets[i + 1] - offsets[i]);
    if (length == 0) continue;
    write_document(trained, std::span(tokens.tokens).subspan(begin, length), offsets[i], file);
  }
  trained.routing->end_evaluation();
  file.close();
  output.publish();
}

}  // namespace sluice
