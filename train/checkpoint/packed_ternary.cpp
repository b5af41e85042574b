#include "train/checkpoint/packed_ternary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "autograd/core/dtype.h"
#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr std::string_view kRoom = "packed/";
constexpr std::string_view kTrits = "/trits";
constexpr std::string_view kScale = "/scale";
constexpr std::string_view kShape = "/shape";
constexpr uint8_t kCodes = 243;  // 3^5

int64_t bytes_for(int64_t levels) {
  const auto per_byte = static_cast<int64_t>(kTritsPerByte);
  return levels / per_byte + (levels % per_byte == 0 ? 0 : 1);
}

/// [M, n]: matrices and the elements of one.
struct Sizes {
  int64_t matrices;
  int64_t size;
};

/// Throws CheckpointError for dimensions of no array.
Sizes sizes_of(std::span<const int64_t> dims, const std::string& where) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 16;
  int64_t size = 1;
  for (const int64_t dim : dims) {
    SLUICE_CHECK(CheckpointError, dim > 0 && size <= kMost / dim,
                 "{}: found a dimension of {}, allowed positive ones of an array that fits a file",
                 where, dim);
    size *= dim;
  }
  SLUICE_CHECK(CheckpointError, !dims.empty(), "{}: found no dimensions, allowed one or more", where);
  return {dims[0], size / dims[0]};
}

template <class T>
std::vector<std::byte> as_bytes_of(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

template <class T>
void pack_values(const StateArray& levels, Sizes sizes, std::vector<uint8_t>& trits,
                 std::vector<T>& scales) {
  const auto values = levels.values<T>();
  for (int64_t m = 0; m < sizes.matrices; ++m) {
    const auto matrix = values.subspan(static_cast<size_t>(m * sizes.size),
                                       static_cast<size_t>(sizes.size));
    T g = 0;
    for (const T value : matrix) g = std::max(g, std::abs(value));
    scales.push_back(g);
    for (size_t first = 0; first < matrix.size(); first += kTritsPerByte) {
      Trits five{};
      for (size_t i = 0; i < std::min(kTritsPerByte, matrix.size() - first); ++i) {
        const T value = matrix[first + i];
        SLUICE_INTERNAL_CHECK(value == 0 || std::abs(value) == g, "{} among levels of {}", value, g);
        five[i] = static_cast<int8_t>(value > 0 ? 1 : value < 0 ? -1 : 0);
      }
      trits.push_back(pack_trits(five));
    }
  }
}

template <class T>
std::vector<T> unpack_values(std::span<const uint8_t> trits, std::span<const T> scales, Sizes sizes) {
  std::vector<T> values;
  values.reserve(static_cast<size_t>(sizes.matrices * sizes.size));
  const auto row = static_cast<size_t>(bytes_for(sizes.size));
  std::vector<int8_t> levels;
  for (size_t m = 0; m < static_cast<size_t>(sizes.matrices); ++m) {
    levels.clear();
    for (const uint8_t code : trits.subspan(m * row, row)) {
      const Trits five = unpack_trits(code);
      levels.insert(levels.end(), five.begin(), five.end());
    }
    levels.resize(static_cast<size_t>(sizes.size));
    const auto used = sizes.size - std::ranges::count(levels, int8_t{0});
    const double value = used == 0 ? 0.0
                                   : static_cast<double>(scales[m]) * static_cast<double>(sizes.size) /
                                         static_cast<double>(used);
    for (const int8_t level : levels) values.push_back(static_cast<T>(level * value));
  }
  return values;
}

const StateArray& part_of(const StateDict& state, const std::string& path,
                          const std::string& source) {
  const auto found = state.find(path);
  SLUICE_CHECK(CheckpointError, found != state.end(), "{}: /{} is missing", source, path);
  return found->second;
}

StateArray unpacked(const StateDict& state, const std::string& room, const std::string& source) {
  const StateArray& shape = part_of(state, room + std::string(kShape), source);
  const StateArray& trits = part_of(state, room + std::string(kTrits), source);
  const StateArray& scale = part_of(state, room + std::string(kScale), source);
  const std::string where = fmt::format("{}: /{}", source, room);
  const auto dims = shape.values<int64_t>();
  const Sizes sizes = sizes_of(dims, where);
  const std::vector<int64_t> of_trits = {sizes.matrices, bytes_for(sizes.size)};
  const std::vector<int64_t> of_scale = {sizes.matrices};
  SLUICE_CHECK(CheckpointError, trits.dims == of_trits && scale.dims == of_scale,
               "{}: its parts are not those of an array of {} matrices of {} numbers", where,
               sizes.matrices, sizes.size);
  SLUICE_CHECK(CheckpointError,
               scale.type == ElementType::f32 || scale.type == ElementType::f64,
               "{}: its scale is {}, allowed f32 and f64", where, name_of(scale.type));
  const auto codes = trits.values<uint8_t>();
  const auto bad = std::ranges::find_if(codes, [](uint8_t code) { return code >= kCodes; });
  SLUICE_CHECK(CheckpointError, bad == codes.end(), "{}: found the byte {}, allowed 0 to {}", where,
               bad == codes.end() ? 0 : *bad, kCodes - 1);
  StateArray result{scale.type, {dims.begin(), dims.end()}, {}};
  dispatch_float(scale.type == ElementType::f64 ? DType::f64 : DType::f32, [&]<class T>() {
    result.bytes = as_bytes_of(unpack_values<T>(codes, scale.values<T>(), sizes));
  });
  return result;
}

}  // namespace

uint8_t pack_trits(const Trits& levels) {
  int code = 0;
  for (size_t i = kTritsPerByte; i > 0; --i) code = 3 * code + levels[i - 1] + 1;
  return static_cast<uint8_t>(code);
}

Trits unpack_trits(uint8_t code) {
  Trits levels;
  int rest = code;
  for (int8_t& level : levels) {
    level = static_cast<int8_t>(rest % 3 - 1);
    rest /= 3;
  }
  return levels;
}

void put_packed(StateDict& state, const std::string& path, const StateArray& levels) {
  const Sizes sizes = sizes_of(levels.dims, path);
  std::vector<uint8_t> trits;
  StateArray scale{levels.type, {sizes.matrices}, {}};
  dispatch_float(levels.type == ElementType::f64 ? DType::f64 : DType::f32, [&]<class T>() {
    std::vector<T> scales;
    pack_values<T>(levels, sizes, trits, scales);
    scale.bytes = as_bytes_of(scales);
  });
  const std::string room = std::string(kRoom) + path;
  state[room + std::string(kTrits)] = {
      ElementType::u8, {sizes.matrices, bytes_for(sizes.size)}, as_bytes_of(trits)};
  state[room + std::string(kScale)] = std::move(scale);
  state[room + std::string(kShape)] = {
      ElementType::i64, {std::ssize(levels.dims)}, as_bytes_of(levels.dims)};
  state.erase(path);
}

void unpack_all(StateDict& state, const std::string& source) {
  std::vector<std::string> rooms;
  for (auto at = state.lower_bound(kRoom); at != state.end() && at->first.starts_with(kRoom); ++at) {
    if (at->first.ends_with(kTrits)) {
      rooms.push_back(at->first.substr(0, at->first.size() - kTrits.size()));
    }
  }
  for (const std::string& room : rooms) {
    const std::string path = room.substr(kRoom.size());
    SLUICE_CHECK(CheckpointError, !state.contains(path), "{}: holds /{} and /{}; allowed one of them",
                 source, path, room);
    state.emplace(path, unpacked(state, room, source));
    for (const std::string_view part : {kTrits, kScale, kShape}) {
      state.erase(room + std::string(part));
    }
  }
}

}  // namespace sluice
