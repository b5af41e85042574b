#include "train/metrics/event_file.h"

#include <bit>
#include <cstring>
#include <limits>
#include <optional>

#include "autograd/support/checksum.h"
#include "autograd/support/file.h"

namespace sluice {
namespace {

static_assert(std::endian::native == std::endian::little,
              "numbers are written as they lie in memory");

// Protocol buffer wire types.
constexpr uint32_t kVarint = 0;
constexpr uint32_t kFixed64 = 1;
constexpr uint32_t kBytes = 2;
constexpr uint32_t kFixed32 = 5;

// Field numbers of event.proto and summary.proto.
namespace event {
constexpr uint32_t kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5;
}
namespace summary {
constexpr uint32_t kValue = 1;
}
namespace value {
constexpr uint32_t kTag = 1, kSimpleValue = 2, kHistogram = 5;
}
namespace histogram {
constexpr uint32_t kMin = 1, kMax = 2, kNum = 3, kSum = 4, kSumSquares = 5, kLimits = 6,
                   kBuckets = 7;
}

constexpr size_t kFrameHeader = 12;  // length and its checksum
constexpr size_t kFrameFooter = 4;

template <class T>
std::string raw(T number) {
  return {reinterpret_cast<const char*>(&number), sizeof(T)};
}

template <class T>
T read_raw(std::string_view bytes) {
  T number;
  std::memcpy(&number, bytes.data(), sizeof(T));
  return number;
}

std::string varint(uint64_t number) {
  std::string bytes;
  for (; number >= 0x80; number >>= 7) bytes.push_back(static_cast<char>(number | 0x80));
  bytes.push_back(static_cast<char>(number));
  return bytes;
}

std::string key(uint32_t field, uint32_t wire) { return varint(field << 3 | wire); }

std::string number_field(uint32_t field, double number) {
  return key(field, kFixed64) + raw(number);
}

std::string bytes_field(uint32_t field, std::string_view bytes) {
  return key(field, kBytes).append(varint(bytes.size())).append(bytes);
}

std::string numbers_field(uint32_t field, const std::vector<double>& numbers) {
  return bytes_field(
      field, {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(double)});
}

std::string encode(const Histogram& h) {
  double num = 0, sum = 0, sum_squares = 0;
  double begin = h.begin;
  for (size_t i = 0; i < h.counts.size(); ++i) {
    // A bucket stands for its left edge, as expert 3 does for [3, 4).
    num += h.counts[i];
    sum += h.counts[i] * begin;
    sum_squares += h.counts[i] * begin * begin;
    begin = h.limits[i];
  }
  return number_field(histogram::kMin, h.begin) + number_field(histogram::kMax, begin) +
         number_field(histogram::kNum, num) + number_field(histogram::kSum, sum) +
         number_field(histogram::kSumSquares, sum_squares) +
         numbers_field(histogram::kLimits, h.limits) + numbers_field(histogram::kBuckets, h.counts);
}

uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes_of(bytes));
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

// Takes a varint off the front; nothing at the end of the bytes.
std::optional<uint64_t> take_varint(std::string_view& bytes) {
  uint64_t number = 0;
  for (int shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes.front());
    bytes.remove_prefix(1);
    number |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return number;
  }
  return std::nullopt;
}

// The step of an event; 0 when it names none, as protocol buffers leave out zeros.
int64_t step_of(std::string_view event_bytes) {
  while (const auto field = take_varint(event_bytes)) {
    const auto wire = static_cast<uint32_t>(*field & 7);
    size_t skip = wire == kFixed64 ? 8 : wire == kFixed32 ? 4 : 0;
    if (wire == kVarint || wire == kBytes) {
      const auto number = take_varint(event_bytes);
      if (!number) return 0;
      if (*field >> 3 == event::kStep) return static_cast<int64_t>(*number);
      if (wire == kBytes) skip = *number;
    }
    if (skip > event_bytes.size()) return 0;
    event_bytes.remove_prefix(skip);
  }
  return 0;
}

// The length of the whole and undamaged frame at the front, or nothing.
std::optional<size_t> frame_length(std::string_view file) {
  if (file.size() < kFrameHeader + kFrameFooter) return std::nullopt;
  const auto length = read_raw<uint64_t>(file);
  if (read_raw<uint32_t>(file.substr(8)) != masked_crc(file.substr(0, 8))) return std::nullopt;
  if (length > file.size() - kFrameHeader - kFrameFooter) return std::nullopt;
  const auto crc = read_raw<uint32_t>(file.substr(kFrameHeader + length));
  if (crc != masked_crc(file.substr(kFrameHeader, length))) return std::nullopt;
  return kFrameHeader + length + kFrameFooter;
}

}  // namespace

std::string tfrecord_frame(std::string_view bytes) {
  const std::string length = raw(static_cast<uint64_t>(bytes.size()));
  std::string frame = length + raw(masked_crc(length));
  return frame.append(bytes).append(raw(masked_crc(bytes)));
}

std::string version_event(double wall_time) {
  return number_field(event::kWallTime, wall_time) +
         bytes_field(event::kFileVersion, "brain.Event:2");
}

std::string summary_event(double wall_time, const Record& record) {
  std::string values;
  for (const auto& [name, number] : record.values) {
    values += bytes_field(summary::kValue, bytes_field(value::kTag, name) +
                                               key(value::kSimpleValue, kFixed32) +
                                               raw(static_cast<float>(number)));
  }
  for (const Histogram& h : record.histograms) {
    values += bytes_field(summary::kValue, bytes_field(value::kTag, h.name) +
                                               bytes_field(value::kHistogram, encode(h)));
  }
  return number_field(event::kWallTime, wall_time) + key(event::kStep, kVarint) +
         varint(static_cast<uint64_t>(record.step)) + bytes_field(event::kSummary, values);
}

std::string events_up_to(std::string_view file, int64_t step) {
  std::string kept;
  while (const auto length = frame_length(file)) {
    const auto event_bytes = file.substr(kFrameHeader, *length - kFrameHeader - kFrameFooter);
    if (step_of(event_bytes) <= step) kept.append(file.substr(0, *length));
    file.remove_prefix(*length);
  }
  return kept;
}

}  // namespace sluice
