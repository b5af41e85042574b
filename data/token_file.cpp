#include "data/token_file.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>

#include "autograd/support/error.h"
#include "autograd/support/hdf5.h"
#include "data/files.h"

namespace sluice {
namespace {

template <class T>
std::vector<int32_t> checked_ids(const std::string& path, const std::vector<T>& ids) {
  if constexpr (std::is_same_v<T, uint32_t>) {
    constexpr auto kMax = static_cast<uint32_t>(std::numeric_limits<int32_t>::max());
    const auto bad = std::find_if(ids.begin(), ids.end(), [](T id) { return id > kMax; });
    SLUICE_CHECK(DataError, bad == ids.end(), "{}: token {} is {}, more than any vocabulary has",
                 path, bad - ids.begin(), *bad);
  }
  return {ids.begin(), ids.end()};
}

template <class T>
std::vector<int32_t> raw_ids(const std::string& path, std::string_view bytes) {
  std::vector<T> ids(bytes.size() / sizeof(T));
  std::memcpy(ids.data(), bytes.data(), ids.size() * sizeof(T));
  return checked_ids(path, ids);
}

std::vector<int32_t> read_raw(const std::string& path, const std::string& raw_type) {
  const std::string bytes = read_input_file(path);
  const size_t width = raw_type == "u16" ? 2 : 4;
  SLUICE_CHECK(DataError, bytes.size() % width == 0,
               "{}: {} bytes are no whole number of {} tokens", path, bytes.size(), raw_type);
  return width == 2 ? raw_ids<uint16_t>(path, bytes) : raw_ids<uint32_t>(path, bytes);
}

/// The text after `key` in the Python dictionary of a .npy header, up to `end`.
std::string_view header_value(std::string_view header, std::string_view key, char end) {
  const size_t at = header.find(key);
  if (at == std::string_view::npos) return {};
  std::string_view rest = header.substr(at + key.size());
  rest.remove_prefix(std::min(rest.find_first_not_of(": "), rest.size()));
  const size_t stop = rest.find(end, 1);
  return stop == std::string_view::npos ? std::string_view() : rest.substr(0, stop + 1);
}

/// "(1234,)" gives 1234; anything but one dimension gives nothing.
std::optional<int64_t> single_dimension(std::string_view shape) {
  if (!shape.starts_with('(') || !shape.ends_with(')')) return std::nullopt;
  shape = shape.substr(1, shape.size() - 2);
  int64_t size = 0;
  const auto parsed = std::from_chars(shape.data(), shape.data() + shape.size(), size);
  if (parsed.ec != std::errc() || size < 0) return std::nullopt;
  const std::string_view rest(parsed.ptr,
                              static_cast<size_t>(shape.data() + shape.size() - parsed.ptr));
  if (rest != ",") return std::nullopt;
  return size;
}

std::vector<int32_t> read_npy(const std::string& path) {
  const std::string content = read_input_file(path);
  const std::string_view bytes = content;
  SLUICE_CHECK(DataError, bytes.size() >= 12 && bytes.starts_with("\x93NUMPY"),
               "{}: not a NumPy file", path);
  const auto byte = [&](size_t i) {
    return static_cast<size_t>(static_cast<unsigned char>(bytes[i]));
  };
  const bool has_short_header =
      byte(6) == 1;  // format 1.0 counts the header in two bytes, later ones in four
  const size_t start = has_short_header ? 10 : 12;
  size_t header_bytes = byte(8) | (byte(9) << 8);
  if (!has_short_header) header_bytes |= (byte(10) << 16) | (byte(11) << 24);
  SLUICE_CHECK(DataError, start + header_bytes <= bytes.size(), "{}: its header is cut off", path);
  const std::string_view header = bytes.substr(start, header_bytes);
  const std::string_view type = header_value(header, "'descr'", '\'');
  const std::string_view shape = header_value(header, "'shape'", ')');
  const auto size = single_dimension(shape);
  SLUICE_CHECK(DataError, size && (type == "'<u2'" || type == "'<u4'" || type == "'<i4'"),
               "{}: found an array of type {} and shape {}, expected one dimension of '<u2', '<u4' "
               "or '<i4'",
               path, type, shape);
  const std::string_view data = bytes.substr(start + header_bytes);
  const size_t width = type == "'<u2'" ? 2 : 4;
  SLUICE_CHECK(DataError,
               data.size() / width == static_cast<size_t>(*size) && data.size() % width == 0,
               "{}: its header promises {} tokens of {} bytes, but {} bytes follow", path, *size,
               width, data.size());
  if (width == 2) return raw_ids<uint16_t>(path, data);
  return type == "'<i4'" ? raw_ids<int32_t>(path, data) : raw_ids<uint32_t>(path, data);
}

std::vector<int64_t> read_offsets(const hdf5::File& file, const std::string& path, int64_t tokens) {
  std::vector<int64_t> offsets;
  if (!file.exists("/document_offsets")) return offsets;
  const ElementType type = file.info("/document_offsets").type;
  if (type == ElementType::u64) {
    const auto read = file.read<uint64_t>("/document_offsets");
    offsets.assign(read.begin(), read.end());
  } else {
    offsets = file.read<int64_t>("/document_offsets");
  }
  SLUICE_CHECK(DataError,
               !offsets.empty() && offsets.front() == 0 && offsets.back() == tokens &&
                   std::is_sorted(offsets.begin(), offsets.end()),
               "{}: /document_offsets does not rise from 0 to the {} tokens", path, tokens);
  return offsets;
}

TokenFile read_hdf5(const std::string& path) {
  const auto file = hdf5::File::open(path, raise_as<DataError>);
  SLUICE_CHECK(DataError, file.exists("/tokens"), "{}: no dataset /tokens", path);
  TokenFile result;
  const ElementType type = file.info("/tokens").type;
  if (type == ElementType::u16) {
    result.tokens = checked_ids(path, file.read<uint16_t>("/tokens"));
  } else if (type == ElementType::u32) {
    result.tokens = checked_ids(path, file.read<uint32_t>("/tokens"));
  } else {
    SLUICE_CHECK(DataError, type == ElementType::i32,
                 "{}: /tokens is of type {}, expected u16, u32 or i32", path, name_of(type));
    result.tokens = file.read<int32_t>("/tokens");
  }
  result.document_offsets = read_offsets(file, path, static_cast<int64_t>(result.tokens.size()));
  return result;
}

}  // namespace

TokenFile read_token_file(const std::string& path, const std::string& raw_type) {
  const std::string extension = extension_of(path);
  if (extension == "npy") return {read_npy(path), {}};
  if (extension == "h5" || extension == "hdf5") return read_hdf5(path);
  return {read_raw(path, raw_type), {}};
}

}  // namespace sluice
