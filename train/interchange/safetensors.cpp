#include "train/interchange/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/support/error.h"
#include "data/json_text.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little, "data are read as they lie in memory");

constexpr int64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kFileName = "model.safetensors";
constexpr std::string_view kMetadata = "__metadata__";

std::string_view dtype_name(StoredType type) {
  switch (type) {
    case StoredType::f32:
      return "F32";
    case StoredType::f16:
      return "F16";
    case StoredType::bf16:
      return "BF16";
    default:
      break;
  }
  SLUICE_INTERNAL_CHECK(false, "safetensors has no {}", name_of(type));
  return {};
}

/// Where a header is not as it should be.
struct Place {
  const std::string& file;
  const std::string& tensor;

  template <class... Args>
  void check(bool is_right, fmt::format_string<Args...> text, Args&&... args) const {
    SLUICE_CHECK(CheckpointError, is_right, "{}: tensor \"{}\": {}", file, tensor.substr(0, 200),
                 fmt::format(text, std::forward<Args>(args)...));
  }
};

StoredType dtype_of(const Place& place, const json& entry) {
  const auto found = entry.find("dtype");
  place.check(found != entry.end() && found->is_string(), "has no dtype");
  const auto& name = found->get_ref<const std::string&>();
  for (const StoredType type : {StoredType::f32, StoredType::f16, StoredType::bf16}) {
    if (name == dtype_name(type)) return type;
  }
  place.check(false, "its dtype is {}, allowed F32, F16 or BF16", name.substr(0, 40));
  return {};
}

/// An array of whole numbers from 0 to 2^62.
std::vector<int64_t> whole_numbers(const Place& place, const json& entry, const char* key) {
  const auto found = entry.find(key);
  place.check(found != entry.end() && found->is_array(), "has no {}", key);
  std::vector<int64_t> numbers;
  for (const json& item : *found) {
    place.check(item.is_number_unsigned() && item.get<uint64_t>() < (uint64_t{1} << 62),
                "its {} holds {}, allowed whole numbers from 0", key, item.dump().substr(0, 40));
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

struct Entry {
  StoredTensor tensor;
  int64_t begin;  // in the data
  int64_t end;
};

Entry read_entry(const std::string& file, const std::string& name, const json& entry) {
  const Place place{file, name};
  place.check(entry.is_object(), "is described by {}, allowed an object", entry.type_name());
  Entry result{{.name = name, .type = dtype_of(place, entry)}, 0, 0};
  result.tensor.dims = whole_numbers(place, entry, "shape");
  place.check(result.tensor.dims.size() <= 16, "has {} dimensions, allowed at most 16",
              result.tensor.dims.size());
  const auto numel = checked_numel(result.tensor.dims);
  place.check(numel.has_value(), "its shape [{}] has more than 2^48 elements",
              fmt::join(result.tensor.dims, ", "));
  const auto offsets = whole_numbers(place, entry, "data_offsets");
  place.check(offsets.size() == 2 && offsets[0] <= offsets[1],
              "its data_offsets are [{}], allowed a begin and an end", fmt::join(offsets, ", "));
  result.begin = offsets[0];
  result.end = offsets[1];
  const int64_t bytes = stored_bytes(result.tensor.type, *numel);
  place.check(result.end - result.begin == bytes, "its data are {} bytes, its shape makes {}",
              result.end - result.begin, bytes);
  return result;
}

/// The tensors must tile `data_bytes` bytes.
void check_tiling(const std::string& file, std::vector<Entry>& entries, int64_t data_bytes) {
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t end = 0;
  for (const Entry& entry : entries) {
    const Place place{file, entry.tensor.name};
    place.check(entry.begin >= end, "its data begin at {}, inside those before it, which end at {}",
                entry.begin, end);
    place.check(entry.begin == end, "its data begin at {}, leaving a gap behind {}", entry.begin,
                end);
    place.check(entry.end <= data_bytes, "its data end at {}, the file holds {}: it is truncated",
                entry.end, data_bytes);
    end = entry.end;
  }
  SLUICE_CHECK(CheckpointError, end == data_bytes,
               "{}: holds {} bytes of data, its tensors take {}", file, data_bytes, end);
}

json read_header(const InputFile& file, int64_t& data_begin) {
  const std::string name = file.name();
  SLUICE_CHECK(CheckpointError, file.bytes() >= kLengthBytes,
               "{}: truncated: {} bytes, a safetensors file has at least {}", name, file.bytes(),
               kLengthBytes);
  uint64_t length = 0;
  file.read(0, std::as_writable_bytes(std::span(&length, 1)));
  SLUICE_CHECK(CheckpointError, length <= kMaxHeaderBytes,
               "{}: its header claims {} bytes, allowed at most {}; is it a safetensors file?",
               name, length, kMaxHeaderBytes);
  data_begin = kLengthBytes + static_cast<int64_t>(length);
  SLUICE_CHECK(CheckpointError, data_begin <= file.bytes(),
               "{}: truncated: its header claims {} bytes, the file has {}", name, length,
               file.bytes());
  std::string text(length, ' ');
  file.read(kLengthBytes, std::as_writable_bytes(std::span(text)));
  SLUICE_CHECK(CheckpointError, text.starts_with('{'),
               "{}: its header does not begin with a brace; is it a safetensors file?", name);
  json header = parse_json(text, name, raise_as<CheckpointError>);
  SLUICE_CHECK(CheckpointError, header.is_object(), "{}: its header is no object", name);
  return header;
}

void add_file(TensorFiles& files, const fs::path& path) {
  auto file = std::make_unique<InputFile>(path);
  int64_t data_begin = 0;
  const json header = read_header(*file, data_begin);
  std::vector<Entry> entries;
  for (const auto& [name, entry] : header.items()) {
    if (name != kMetadata) entries.push_back(read_entry(file->name(), name, entry));
  }
  check_tiling(file->name(), entries, file->bytes() - data_begin);
  const size_t number = files.add(std::move(file));
  for (Entry& entry : entries) {
    entry.tensor.file = number;
    entry.tensor.offset = data_begin + entry.begin;
    files.add(std::move(entry.tensor));
  }
}

/// Name of each tensor's file. Only names of files beside the index are taken.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const json index = read_json_file(path, raise_as<CheckpointError>);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  SLUICE_CHECK(CheckpointError, index.is_object() && map != index.end() && map->is_object(),
               "{}: has no weight_map, which names the file of each tensor", path.string());
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : map->items()) {
    SLUICE_CHECK(CheckpointError, file.is_string(), "{}: the file of \"{}\" is no text",
                 path.string(), name.substr(0, 200));
    const auto& text = file.get_ref<const std::string&>();
    SLUICE_CHECK(CheckpointError,
                 !text.empty() && text.find('/') == std::string::npos && text != "." &&
                     text != ".." && text.find('\0') == std::string::npos,
                 "{}: the file of \"{}\" is \"{}\", allowed the name of a file beside it",
                 path.string(), name.substr(0, 200), text.substr(0, 200));
    files.emplace(name, text);
  }
  return files;
}

TensorFiles open_index(const fs::path& path) {
  const auto file_of = read_index(path);
  std::set<std::string> names;
  for (const auto& [tensor, file] : file_of) names.insert(file);
  TensorFiles files;
  for (const std::string& name : names) add_file(files, path.parent_path() / name);
  for (const auto& [name, tensor] : files.tensors()) {
    const auto found = file_of.find(name);
    SLUICE_CHECK(CheckpointError, found != file_of.end(), "{}: \"{}\" is not in the index {}",
                 files.file(tensor.file).name(), name.substr(0, 200), path.string());
    const std::string listed = (path.parent_path() / found->second).string();
    SLUICE_CHECK(CheckpointError, files.file(tensor.file).name() == listed,
                 "{}: \"{}\" stands in {}, the index names {}", path.string(), name.substr(0, 200),
                 files.file(tensor.file).name(), listed);
  }
  for (const auto& [name, file] : file_of) {
    SLUICE_CHECK(CheckpointError, files.find(name) != nullptr,
                 "{}: names \"{}\" in {}, which does not hold it", path.string(),
                 name.substr(0, 200), file);
  }
  return files;
}

// --- writing -------------------------------------------------------------------------------------

int64_t bytes_of_tensor(const TensorToWrite& tensor) {
  const auto numel = checked_numel(tensor.dims);
  SLUICE_INTERNAL_CHECK(numel.has_value(), "{} has too many elements", tensor.name);
  return stored_bytes(tensor.type, *numel);
}

std::string header_of(std::span<const TensorToWrite> tensors) {
  ordered_json header = {{kMetadata, {{"format", "pt"}}}};
  int64_t at = 0;
  for (const TensorToWrite& tensor : tensors) {
    const int64_t end = at + bytes_of_tensor(tensor);
    header[tensor.name] = {
        {"dtype", dtype_name(tensor.type)}, {"shape", tensor.dims}, {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = header.dump();
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');
  return text;
}

void write_one(FileSystem& files, const fs::path& path, std::span<const TensorToWrite> tensors) {
  const std::string header = header_of(tensors);
  const auto length = static_cast<uint64_t>(header.size());
  OutputStream file(files, path);
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(bytes_of(header));
  for (const TensorToWrite& tensor : tensors) write_tensor(file, tensor);
  file.finish();
}

/// Cuts `tensors` where the next one would make a file of more than `max_bytes`.
std::vector<std::span<const TensorToWrite>> cut(std::span<const TensorToWrite> tensors,
                                                int64_t max_bytes) {
  std::vector<std::span<const TensorToWrite>> parts;
  size_t begin = 0;
  int64_t bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t more = bytes_of_tensor(tensors[i]);
    if (i > begin && bytes + more > max_bytes) {
      parts.push_back(tensors.subspan(begin, i - begin));
      begin = i;
      bytes = 0;
    }
    bytes += more;
  }
  parts.push_back(tensors.subspan(begin));
  return parts;
}

}  // namespace

TensorFiles open_safetensors(const fs::path& path) {
  fs::path file = path;
  if (fs::is_directory(path)) {
    file = path / (fs::exists(path / kIndexName) ? kIndexName : kFileName);
  }
  SLUICE_CHECK(ConfigError, fs::exists(file), "{}: no such file; a model has {} or {}",
               file.string(), kFileName, kIndexName);
  if (file.extension() == ".json") return open_index(file);
  TensorFiles files;
  add_file(files, file);
  return files;
}

void write_safetensors(FileSystem& files, const fs::path& folder,
                       std::vector<TensorToWrite> tensors, int64_t max_file_bytes) {
  // F32, then BF16, then F16: the reference writer's order of types.
  const auto rank = [](StoredType type) {
    return type == StoredType::f32 ? 0 : type == StoredType::bf16 ? 1 : 2;
  };
  std::ranges::sort(tensors, [&](const TensorToWrite& a, const TensorToWrite& b) {
    return std::pair(rank(a.type), std::string_view(a.name)) <
           std::pair(rank(b.type), std::string_view(b.name));
  });
  const auto parts = cut(tensors, max_file_bytes);
  if (parts.size() == 1) {
    write_one(files, folder / kFileName, parts.front());
    return;
  }
  ordered_json weight_map = ordered_json::object();
  int64_t total = 0;
  for (size_t part = 0; part < parts.size(); ++part) {
    const std::string name =
        fmt::format("model-{:05}-of-{:05}.safetensors", part + 1, parts.size());
    write_one(files, folder / name, parts[part]);
    for (const TensorToWrite& tensor : parts[part]) {
      weight_map[tensor.name] = name;
      total += bytes_of_tensor(tensor);
    }
  }
  const ordered_json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  write_file_atomically(files, folder / kIndexName, bytes_of(index.dump(2) + "\n"),
                        raise_as<CheckpointError>);
}

}  // namespace sluice
