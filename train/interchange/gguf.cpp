#include "train/interchange/gguf.h"

#include <fcntl.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "autograd/support/error.h"
#include "train/interchange/config_reader.h"
#include "train/interchange/output_stream.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxText = uint64_t{1} << 24;
constexpr uint64_t kMaxDimensions = 4;
constexpr int kMaxArrayDepth = 4;
constexpr uint64_t kMaxElements = uint64_t{1} << 24;

enum class ValueType : uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  text,
  array,
  u64,
  i64,
  f64
};

struct TypeNumber {
  StoredType type;
  uint32_t number;
};
constexpr std::array<TypeNumber, 6> kTypes = {{{StoredType::f32, 0},
                                               {StoredType::f16, 1},
                                               {StoredType::q4_0, 2},
                                               {StoredType::q4_1, 3},
                                               {StoredType::q8_0, 8},
                                               {StoredType::bf16, 30}}};

uint64_t rounded_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

/// Reads a file from front to back, a piece at a time.
class Cursor {
 public:
  explicit Cursor(const InputFile& file) : file_(file) {}

  [[nodiscard]] int64_t position() const { return at_; }
  [[nodiscard]] uint64_t remaining() const { return static_cast<uint64_t>(file_.bytes() - at_); }
  [[nodiscard]] std::string name() const { return file_.name(); }

  template <class T>
  T take() {
    T value;
    copy(std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  std::string text() {
    const auto length = take<uint64_t>();
    SLUICE_CHECK(CheckpointError, length <= kMaxText && length <= remaining(),
                 "{}: a text at byte {} claims {} bytes, {} remain", name(), at_, length,
                 remaining());
    std::string result(length, '\0');
    copy(std::as_writable_bytes(std::span(result)));
    return result;
  }
  /// Counts elements of arrays, all of which become values in memory.
  void count_elements(uint64_t count) {
    SLUICE_CHECK(CheckpointError, count <= kMaxElements - elements_,
                 "{}: its arrays hold more than {} elements", name(), kMaxElements);
    elements_ += count;
  }
  /// Throws unless so many things of at least `bytes` each can follow.
  void expect(uint64_t count, uint64_t bytes, std::string_view what) const {
    SLUICE_CHECK(CheckpointError, count <= remaining() / bytes,
                 "{}: truncated: it claims {} {}, {} bytes remain", name(), count, what,
                 remaining());
  }

 private:
  void copy(std::span<std::byte> into) {
    while (!into.empty()) {
      if (used_ == buffer_.size()) refill();
      const size_t count = std::min(into.size(), buffer_.size() - used_);
      std::memcpy(into.data(), buffer_.data() + used_, count);
      used_ += count;
      at_ += static_cast<int64_t>(count);
      into = into.subspan(count);
    }
  }
  void refill() {
    constexpr uint64_t kPiece = uint64_t{1} << 16;
    SLUICE_CHECK(CheckpointError, remaining() > 0, "{}: truncated: it ends at byte {}", name(),
                 at_);
    buffer_.resize(std::min(kPiece, remaining()));
    file_.read(at_, buffer_);
    used_ = 0;
  }

  const InputFile& file_;
  int64_t at_ = 0;
  std::vector<std::byte> buffer_;
  size_t used_ = 0;
  uint64_t elements_ = 0;
};

json read_value(Cursor& cursor, ValueType type, int depth) {
  switch (type) {
    case ValueType::u8:
      return cursor.take<uint8_t>();
    case ValueType::i8:
      return cursor.take<int8_t>();
    case ValueType::u16:
      return cursor.take<uint16_t>();
    case ValueType::i16:
      return cursor.take<int16_t>();
    case ValueType::u32:
      return cursor.take<uint32_t>();
    case ValueType::i32:
      return cursor.take<int32_t>();
    case ValueType::f32:
      return cursor.take<float>();
    case ValueType::boolean:
      return cursor.take<uint8_t>() != 0;
    case ValueType::text:
      return cursor.text();
    case ValueType::u64:
      return cursor.take<uint64_t>();
    case ValueType::i64:
      return cursor.take<int64_t>();
    case ValueType::f64:
      return cursor.take<double>();
    case ValueType::array: {
      SLUICE_CHECK(CheckpointError, depth < kMaxArrayDepth, "{}: arrays nest deeper than {} levels",
                   cursor.name(), kMaxArrayDepth);
      const auto element = static_cast<ValueType>(cursor.take<uint32_t>());
      const auto count = cursor.take<uint64_t>();
      cursor.expect(count, 1, "elements of an array");
      cursor.count_elements(count);
      json array = json::array();
      for (uint64_t i = 0; i < count; ++i) array.push_back(read_value(cursor, element, depth + 1));
      return array;
    }
  }
  throw CheckpointError(fmt::format("{}: a value at byte {} is of type {}, allowed 0 to 12",
                                    cursor.name(), cursor.position(), static_cast<uint32_t>(type)));
}

struct Description {
  StoredTensor tensor;
  uint64_t offset;  // in the data
  uint64_t bytes;
};

Description read_description(Cursor& cursor) {
  Description result{{.name = cursor.text()}, 0, 0};
  StoredTensor& tensor = result.tensor;
  const auto check = [&](bool is_right, const std::string& what) {
    SLUICE_CHECK(CheckpointError, is_right, "{}: tensor \"{}\": {}", cursor.name(),
                 tensor.name.substr(0, 200), what);
  };
  const auto dimensions = cursor.take<uint32_t>();
  check(dimensions <= kMaxDimensions,
        fmt::format("has {} dimensions, allowed at most {}", dimensions, kMaxDimensions));
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto size = cursor.take<uint64_t>();
    check(size < (uint64_t{1} << 62), fmt::format("has a dimension of {}", size));
    tensor.dims.push_back(static_cast<int64_t>(size));
  }
  std::ranges::reverse(tensor.dims);
  const auto number = cursor.take<uint32_t>();
  const auto type = std::ranges::find(kTypes, number, &TypeNumber::number);
  check(type != kTypes.end(),
        fmt::format("its type is number {}, allowed f32, f16, bf16, q4_0, q4_1 or q8_0", number));
  tensor.type = type->type;
  const auto numel = checked_numel(tensor.dims);
  check(numel.has_value(),
        fmt::format("its shape [{}] has more than 2^48 elements", fmt::join(tensor.dims, ", ")));
  const int64_t row = tensor.dims.empty() ? 1 : tensor.dims.back();
  check(row % block_elements(tensor.type) == 0,
        fmt::format("its rows of {} are no whole blocks of {}", row, name_of(tensor.type)));
  result.bytes = static_cast<uint64_t>(stored_bytes(tensor.type, *numel));
  result.offset = cursor.take<uint64_t>();
  return result;
}

/// Every tensor must lie inside the data, at a multiple of the alignment, and apart from the others.
void check_places(const std::string& name, std::vector<Description>& all, uint64_t alignment,
                  uint64_t data_bytes) {
  // An empty tensor may begin where another one does.
  std::ranges::sort(all, {},
                    [](const Description& one) { return std::pair(one.offset, one.bytes); });
  uint64_t end = 0;
  for (const Description& one : all) {
    const auto check = [&](bool is_right, const std::string& what) {
      SLUICE_CHECK(CheckpointError, is_right, "{}: tensor \"{}\": {}", name,
                   one.tensor.name.substr(0, 200), what);
    };
    check(one.offset % alignment == 0,
          fmt::format("its data begin at {}, no multiple of {}", one.offset, alignment));
    check(one.offset >= end, fmt::format("its data begin at {}, inside those before it, which end "
                                         "at {}",
                                         one.offset, end));
    check(one.offset <= data_bytes && one.bytes <= data_bytes - one.offset,
          fmt::format("its data end behind the file, which has {} bytes for them: it is truncated",
                      data_bytes));
    end = one.offset + one.bytes;
  }
}

void read_keys(Cursor& cursor, uint64_t count, json& keys) {
  for (uint64_t i = 0; i < count; ++i) {
    const std::string key = cursor.text();
    const auto type = static_cast<ValueType>(cursor.take<uint32_t>());
    json value = read_value(cursor, type, 0);
    SLUICE_CHECK(CheckpointError, !keys.contains(key), "{}: gives the key \"{}\" twice",
                 cursor.name(), key.substr(0, 200));
    keys[key] = std::move(value);
  }
}

uint64_t alignment_of(const std::string& name, const json& keys) {
  const auto found = keys.find("general.alignment");
  if (found == keys.end()) return kDefaultAlignment;
  const bool is_right = found->is_number_unsigned() && found->get<uint64_t>() >= 8 &&
                        found->get<uint64_t>() <= 65536 && found->get<uint64_t>() % 8 == 0;
  if (!is_right) {
    ConfigReader(keys, name).refuse("general.alignment", "allowed a multiple of 8 up to 65536");
  }
  return found->get<uint64_t>();
}

// --- writing -------------------------------------------------------------------------------------

class Header {
 public:
  template <class T>
  void put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void put_text(std::string_view text) {
    put<uint64_t>(text.size());
    bytes_ += text;
  }
  void put_type(ValueType type) { put(static_cast<uint32_t>(type)); }

  void put_value(const json& value) {
    if (value.is_string()) {
      put_type(ValueType::text);
      put_text(value.get_ref<const std::string&>());
    } else if (value.is_boolean()) {
      put_type(ValueType::boolean);
      put<uint8_t>(value.get<bool>() ? 1 : 0);
    } else if (value.is_number_float()) {
      put_type(ValueType::f32);
      put(value.get<float>());
    } else if (value.is_number()) {
      put_type(ValueType::u32);
      put(value.get<uint32_t>());
    } else {
      put_array(value);
    }
  }
  [[nodiscard]] std::string& bytes() { return bytes_; }

 private:
  void put_array(const json& values) {
    const bool is_text = !values.empty() && values.front().is_string();
    const bool is_float = !values.empty() && values.front().is_number_float();
    put_type(ValueType::array);
    put_type(is_text ? ValueType::text : is_float ? ValueType::f32 : ValueType::i32);
    put<uint64_t>(values.size());
    for (const json& value : values) {
      if (is_text) {
        put_text(value.get_ref<const std::string&>());
      } else if (is_float) {
        put(value.get<float>());
      } else {
        put(value.get<int32_t>());
      }
    }
  }
  std::string bytes_;
};

uint64_t bytes_of_tensor(const TensorToWrite& tensor) {
  return static_cast<uint64_t>(stored_bytes(tensor.type, checked_numel(tensor.dims).value_or(0)));
}

}  // namespace

GgufFile open_gguf(const std::filesystem::path& path) {
  SLUICE_CHECK(ConfigError, std::filesystem::exists(path), "{}: no such file", path.string());
  GgufFile result;
  const size_t number = result.tensors.add(std::make_unique<InputFile>(path));
  const InputFile& file = result.tensors.file(number);
  Cursor cursor(file);
  SLUICE_CHECK(CheckpointError, file.bytes() >= 24 && cursor.take<uint32_t>() == kMagic,
               "{}: is no GGUF file", file.name());
  const auto version = cursor.take<uint32_t>();
  SLUICE_CHECK(CheckpointError, version == 2 || version == 3,
               "{}: is GGUF version {}, allowed 2 or 3", file.name(), version);
  const auto tensors = cursor.take<uint64_t>();
  const auto keys = cursor.take<uint64_t>();
  cursor.expect(keys, 13, "keys");
  read_keys(cursor, keys, result.keys);
  cursor.expect(tensors, 24, "tensors");
  std::vector<Description> all;
  for (uint64_t i = 0; i < tensors; ++i) all.push_back(read_description(cursor));
  const uint64_t alignment = alignment_of(file.name(), result.keys);
  const uint64_t begin = std::min(rounded_up(static_cast<uint64_t>(cursor.position()), alignment),
                                  static_cast<uint64_t>(file.bytes()));
  check_places(file.name(), all, alignment, static_cast<uint64_t>(file.bytes()) - begin);
  for (Description& one : all) {
    one.tensor.file = number;
    one.tensor.offset = static_cast<int64_t>(begin + one.offset);
    result.tensors.add(std::move(one.tensor));
  }
  return result;
}

void write_gguf(FileSystem& files, const std::filesystem::path& path, const GgufKeys& keys,
                std::span<const TensorToWrite> tensors) {
  Header header;
  header.put(kMagic);
  header.put<uint32_t>(3);
  header.put<uint64_t>(tensors.size());
  header.put<uint64_t>(keys.size());
  for (const auto& [key, value] : keys) {
    header.put_text(key);
    header.put_value(value);
  }
  uint64_t at = 0;
  for (const TensorToWrite& tensor : tensors) {
    header.put_text(tensor.name);
    header.put(static_cast<uint32_t>(tensor.dims.size()));
    for (auto dim = tensor.dims.rbegin(); dim != tensor.dims.rend(); ++dim) {
      header.put(static_cast<uint64_t>(*dim));
    }
    header.put(std::ranges::find(kTypes, tensor.type, &TypeNumber::type)->number);
    header.put(at);
    at = rounded_up(at + bytes_of_tensor(tensor), kDefaultAlignment);
  }
  header.bytes().resize(rounded_up(header.bytes().size(), kDefaultAlignment), '\0');

  PendingFile pending(files, path, raise_as<CheckpointError>);
  OutputStream file(files, pending.temporary());
  file.write(bytes_of(header.bytes()));
  for (const TensorToWrite& tensor : tensors) {
    write_tensor(file, tensor);
    const uint64_t bytes = bytes_of_tensor(tensor);
    const std::string padding(rounded_up(bytes, kDefaultAlignment) - bytes, '\0');
    file.write(bytes_of(padding));
  }
  file.finish();
  pending.rename();
}

}  // namespace sluice
