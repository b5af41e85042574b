#include "train/checkpoint/user_block.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <vector>

#include "autograd/support/checksum.h"
#include "autograd/support/error.h"
#include "autograd/support/file.h"
#include "train/checkpoint/checkpoint.h"

namespace sluice {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the header is written as it lies in memory");

// Readable by people; the line breaks and the 0x1A break when a file is carried as text (as in
// PNG's signature).
constexpr std::string_view kMagic("sluice ckpt\r\n\x1a\n", 16);

constexpr size_t kVersionOffset = 16;
constexpr size_t kSizeOffset = 20;
constexpr size_t kLengthOffset = 24;
constexpr size_t kContentsHashOffset = 32;
constexpr size_t kHeaderHashOffset = 40;
constexpr size_t kHeaderBytes = 48;

template <class T>
void store(UserBlock& block, size_t offset, T value) {
  std::memcpy(block.data() + offset, &value, sizeof(T));
}

template <class T>
T load(std::span<const std::byte> block, size_t offset) {
  T value;
  std::memcpy(&value, block.data() + offset, sizeof(T));
  return value;
}

// Collects the user block from the front of a stream and hashes what follows.
struct Reader {
  std::vector<std::byte> block;
  Xxh64 hash;
  uint64_t contents_bytes = 0;

  void consume(std::span<const std::byte> piece) {
    const size_t front = std::min(kUserBlockBytes - block.size(), piece.size());
    block.insert(block.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(front));
    hash.update(piece.subspan(front));
    contents_bytes += piece.size() - front;
  }
};

// The fields up to the header's hash are where they are in every format version, so that an old
// program can tell a newer file from a damaged one.
void check_header(const std::string& name, std::span<const std::byte> block) {
  SLUICE_CHECK(CheckpointError, !block.empty(), "{}: the file is empty", name);
  const size_t seen = std::min(block.size(), kMagic.size());
  SLUICE_CHECK(CheckpointError, std::memcmp(block.data(), kMagic.data(), seen) == 0,
               "{}: not a checkpoint of sluice", name);
  SLUICE_CHECK(CheckpointError, block.size() == kUserBlockBytes,
               "{}: truncated: {} bytes, less than the header of {}", name, block.size(),
               kUserBlockBytes);
  SLUICE_CHECK(CheckpointError,
               load<uint64_t>(block, kHeaderHashOffset) == xxh64(block.first(kHeaderHashOffset)),
               "{}: damaged: the checksum of its header does not match", name);
  const auto version = load<uint32_t>(block, kVersionOffset);
  SLUICE_CHECK(CheckpointError, version <= kCheckpointFormatVersion,
               "{}: written in format {} by a newer sluice; this one reads formats up to {}", name,
               version, kCheckpointFormatVersion);
  const auto padding = block.subspan(kHeaderBytes);
  const bool is_zero = std::ranges::all_of(padding, [](std::byte b) { return b == std::byte{0}; });
  SLUICE_CHECK(CheckpointError, is_zero, "{}: damaged: its header holds more than it should", name);
}

}  // namespace

UserBlock make_user_block(std::span<const std::byte> contents) {
  UserBlock block{};
  std::memcpy(block.data(), kMagic.data(), kMagic.size());
  store(block, kVersionOffset, static_cast<uint32_t>(kCheckpointFormatVersion));
  store(block, kSizeOffset, static_cast<uint32_t>(kUserBlockBytes));
  store(block, kLengthOffset, static_cast<uint64_t>(contents.size()));
  store(block, kContentsHashOffset, xxh64(contents));
  store(block, kHeaderHashOffset, xxh64(std::span(block).first(kHeaderHashOffset)));
  return block;
}

void verify_user_block(const std::filesystem::path& path) {
  const std::string name = path.string();
  Reader reader;
  read_file_in_pieces(path, raise_as<CheckpointError>,
                      [&](std::span<const std::byte> piece) { reader.consume(piece); });
  check_header(name, reader.block);
  const auto length = load<uint64_t>(reader.block, kLengthOffset);
  SLUICE_CHECK(CheckpointError, reader.contents_bytes >= length, "{}: truncated: {} bytes of {}",
               name, reader.contents_bytes + kUserBlockBytes, length + kUserBlockBytes);
  SLUICE_CHECK(CheckpointError, reader.contents_bytes == length,
               "{}: damaged: {} bytes, {} were written", name,
               reader.contents_bytes + kUserBlockBytes, length + kUserBlockBytes);
  SLUICE_CHECK(CheckpointError,
               reader.hash.digest() == load<uint64_t>(reader.block, kContentsHashOffset),
               "{}: damaged: its checksum does not match", name);
}

}  // namespace sluice
