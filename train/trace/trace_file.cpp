#include "train/trace/trace_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <string_view>

#include "autograd/support/error.h"
#include "layers/routing.h"
#include "train/trace/trace_writer.h"

namespace sluice {
namespace {

constexpr RaiseError kRaise = raise_as<DataError>;

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

hdf5::File open_trace(const std::filesystem::path& path) {
  hdf5::File file = hdf5::File::open(path, kRaise);
  SLUICE_CHECK(DataError, file.has_attribute("/", "sluice_trace"),
               "{}: not a routing trace of sluice", path.string());
  const int64_t version = file.integer_attribute("/", "sluice_trace");
  SLUICE_CHECK(DataError, version <= kTraceFormatVersion,
               "{}: written in trace format {} by a newer sluice; this one reads formats up to {}",
               path.string(), version, kTraceFormatVersion);
  return file;
}

}  // namespace

TraceFile::TraceFile(std::filesystem::path path)
    : path_(std::move(path)), file_(open_trace(path_)) {
  read_meta();
  read_sequences();
  read_documents();
  for (const int64_t number : meta_.layers) read_layer(number);
}

void TraceFile::check(bool good, std::string_view what) const {
  SLUICE_CHECK(DataError, good, "{}: damaged: {}", path_.string(), what);
}

void TraceFile::check_rows(const std::string& path, int64_t rows) const {
  const hdf5::DatasetInfo info = file_.info(path);
  check(!info.dims.empty() && info.dims[0] == rows,
        fmt::format("{} is [{}], expected {} rows", path, fmt::join(info.dims, ", "), rows));
}

void TraceFile::check_ends(const std::vector<int64_t>& ends, int64_t last,
                           std::string_view what) const {
  const bool is_good = std::ranges::is_sorted(ends) && (ends.empty() ? last == 0 : ends[0] >= 0) &&
                       (ends.empty() || ends.back() == last);
  check(is_good, fmt::format("{} do not cover the {} rows", what, last));
}

void TraceFile::read_meta() {
  const std::string kind = file_.text_attribute("/", "kind");
  check(kind == name_of(TraceKind::training) || kind == name_of(TraceKind::held_out),
        fmt::format("its kind is \"{}\"", kind));
  meta_.kind = kind == name_of(TraceKind::training) ? TraceKind::training : TraceKind::held_out;
  meta_.step = file_.integer_attribute("/", "step");
  meta_.vocab_size = file_.integer_attribute("/", "vocab_size");
  meta_.experts = file_.read<int64_t>("/meta/experts");
  meta_.layers = file_.read<int64_t>("/meta/layers");
  meta_.domains = lines_of(file_.read_text("/meta/domains"));
  for (const int64_t layer : meta_.layers) {
    check(layer >= 0 && layer < std::ssize(meta_.experts),
          fmt::format("it names expert layer {} of {}", layer, meta_.experts.size()));
  }
  if (!file_.exists("/meta/tokenizer")) return;
  const auto bytes = file_.read<uint8_t>("/meta/tokenizer");
  meta_.tokenizer.assign(bytes.begin(), bytes.end());
  meta_.tokenizer_kind = file_.text_attribute("/meta/tokenizer", "kind");
}

void TraceFile::read_sequences() {
  const hdf5::DatasetInfo ids = file_.info("/tokens/id");
  check(ids.dims.size() == 1, "/tokens/id is no list");
  tokens_ = ids.dims[0];
  small_ids_ = ids.type == ElementType::u16;
  check_rows("/tokens/counted", tokens_);
  const auto ends = file_.read<int64_t>("/sequences/end");
  const auto samples = file_.read<uint64_t>("/sequences/sample");
  const auto micro_batches = file_.read<uint32_t>("/sequences/micro_batch");
  check_ends(ends, tokens_, "its sequences");
  check(samples.size() == ends.size() && micro_batches.size() == ends.size(),
        "its lists of sequences differ in length");
  for (size_t i = 0; i < ends.size(); ++i) {
    sequences_.push_back({samples[i], i == 0 ? 0 : ends[i - 1], ends[i], micro_batches[i]});
    index_of_.emplace(samples[i], static_cast<int64_t>(i));
  }
}

void TraceFile::read_documents() {
  document_ends_ = file_.read<int64_t>("/documents/end");
  document_domains_ = file_.read<uint16_t>("/documents/domain");
  check_ends(document_ends_, tokens_, "its documents");
  check(document_domains_.size() == document_ends_.size(),
        "its lists of documents differ in length");
  const bool is_known = std::ranges::all_of(
      document_domains_, [&](uint16_t domain) { return domain < meta_.domains.size(); });
  check(is_known, "a document is of a domain that has no name");
}

void TraceFile::read_layer(int64_t number) {
  Layer layer{.number = number, .experts = meta_.experts[static_cast<size_t>(number)]};
  const hdf5::DatasetInfo info = file_.info(layer_path(number, "expert"));
  check(info.dims.size() == 2 && info.dims[0] == tokens_,
        fmt::format("expert layer {} has routes of [{}] for {} tokens", number,
                    fmt::join(info.dims, ", "), tokens_));
  layer.width = info.dims[1];
  layer.top_k = file_.integer_attribute(layer_path(number, ""), "top_k");
  layer.shifted = file_.integer_attribute(layer_path(number, ""), "shifted") != 0;
  layer.has_dropped = file_.exists(layer_path(number, "dropped"));
  layer.has_plan = file_.exists(layer_path(number, "plan"));
  check_rows(layer_path(number, "weight"), tokens_);
  if (layer.has_dropped) check_rows(layer_path(number, "dropped"), tokens_);
  check_rows(layer_path(number, "slots"), std::ssize(sequences_));
  const auto slots = file_.read<uint16_t>(layer_path(number, "slots"));
  layer.slots.assign(slots.begin(), slots.end());
  check(std::ranges::all_of(layer.slots, [&](int64_t count) { return count <= layer.width; }),
        fmt::format("expert layer {} has more slots than columns", number));
  if (layer.has_plan) {
    layer.plan_ends = file_.read<int64_t>(layer_path(number, "plan_end"));
    check_ends(layer.plan_ends, file_.info(layer_path(number, "plan")).numel(), "its plans");
  }
  layers_.push_back(std::move(layer));
}

int64_t TraceFile::find(uint64_t sample) const {
  const auto found = index_of_.find(sample);
  return found == index_of_.end() ? -1 : found->second;
}

bool TraceFile::has(int64_t layer) const {
  return std::ranges::find(layers_, layer, &Layer::number) != layers_.end();
}

const TraceFile::Layer& TraceFile::layer(int64_t layer) const {
  const auto found = std::ranges::find(layers_, layer, &Layer::number);
  SLUICE_INTERNAL_CHECK(found != layers_.end(), "{}: no routes of expert layer {}", path_.string(),
                        layer);
  return *found;
}

template <Element T>
std::vector<T> TraceFile::rows(const std::string& path, int64_t begin, int64_t end,
                               int64_t width) const {
  std::vector<T> values(static_cast<size_t>((end - begin) * width));
  file_.read_rows<T>(path, begin, values);
  return values;
}

std::vector<int32_t> TraceFile::token_ids(int64_t begin, int64_t end) const {
  std::vector<int32_t> result;
  const auto convert = [&](const auto& ids) { result.assign(ids.begin(), ids.end()); };
  if (small_ids_) {
    convert(rows<uint16_t>("/tokens/id", begin, end, 1));
  } else {
    convert(rows<uint32_t>("/tokens/id", begin, end, 1));
  }
  check(std::ranges::all_of(result, [&](int32_t id) { return id >= 0 && id < meta_.vocab_size; }),
        "a token is outside the vocabulary");
  return result;
}

std::vector<uint8_t> TraceFile::counted(int64_t begin, int64_t end) const {
  return rows<uint8_t>("/tokens/counted", begin, end, 1);
}

std::vector<int32_t> TraceFile::domains(int64_t begin, int64_t end) const {
  std::vector<int32_t> result;
  result.reserve(static_cast<size_t>(end - begin));
  auto document = std::ranges::upper_bound(document_ends_, begin);
  for (int64_t token = begin; token < end; ++token) {
    while (token >= *document) ++document;
    result.push_back(document_domains_[static_cast<size_t>(document - document_ends_.begin())]);
  }
  return result;
}

std::vector<int32_t> TraceFile::experts(int64_t number, int64_t begin, int64_t end) const {
  const Layer& layer = this->layer(number);
  const int32_t empty = empty_slot(layer.experts);
  std::vector<int32_t> result;
  bool is_known = true;
  const auto convert = [&](const auto& values) {
    result.reserve(values.size());
    for (const auto value : values) {
      is_known = is_known && (value == empty || value < layer.experts);
      result.push_back(value == empty ? kNoExpert : static_cast<int32_t>(value));
    }
  };
  const std::string path = layer_path(number, "expert");
  if (empty == empty_slot(0)) {
    convert(rows<uint8_t>(path, begin, end, layer.width));
  } else {
    convert(rows<uint16_t>(path, begin, end, layer.width));
  }
  check(is_known,
        fmt::format("{} names an expert beyond the {} of the layer", path, layer.experts));
  return result;
}

std::vector<float> TraceFile::weights(int64_t number, int64_t begin, int64_t end) const {
  return rows<float>(layer_path(number, "weight"), begin, end, layer(number).width);
}

std::vector<uint8_t> TraceFile::dropped(int64_t number, int64_t begin, int64_t end) const {
  if (!layer(number).has_dropped) return {};
  return rows<uint8_t>(layer_path(number, "dropped"), begin, end, layer(number).width);
}

std::vector<double> TraceFile::plan(int64_t number, int64_t micro_batch) const {
  const Layer& layer = this->layer(number);
  if (!layer.has_plan || micro_batch >= std::ssize(layer.plan_ends)) return {};
  const auto at = static_cast<size_t>(micro_batch);
  return rows<double>(layer_path(number, "plan"), at == 0 ? 0 : layer.plan_ends[at - 1],
                      layer.plan_ends[at], 1);
}

bool looks_like_trace(const std::filesystem::path& path) {
  constexpr std::string_view kSignature("\x89HDF\r\n\x1a\n", 8);
  std::array<char, 8> front{};
  std::ifstream file(path, std::ios::binary);
  return file.read(front.data(), front.size()) &&
         std::string_view(front.data(), front.size()) == kSignature;
}

}  // namespace sluice
