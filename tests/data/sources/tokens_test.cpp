#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "autograd/support/hdf5.h"
#include "tests/data/read_source.h"
#include "tests/data/support.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using testing::message_of;
using testing::tokens_of;

template <class T>
std::string bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string npy(const std::string& header, const std::string& data) {
  std::string file = std::string("\x93NUMPY\x01\x00", 8);
  file += static_cast<char>(header.size());
  file += '\0';
  return file + header + data;
}

std::string npy_header(const std::string& type, const std::string& shape) {
  return "{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
}

class TokenFiles : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& content) {
    return testing::write_file(folder_ / name, content);
  }
  std::string write_hdf5(const std::string& name, const std::function<void(hdf5::File&)>& fill) {
    auto file = hdf5::File::create(folder_ / name, raise_as<DataError>);
    fill(file);
    file.close();
    return folder_ / name;
  }
  static std::string error(const std::string& path) {
    const std::string message = message_of<DataError>([&] { (void)tokens_of({{"path", path}}); });
    EXPECT_TRUE(message.starts_with(path)) << message;
    return message.substr(std::min(path.size(), message.size()));
  }
  testing::ScratchFolder folder_;
};

TEST_F(TokenFiles, AreRawNumbersOfEitherWidth) {
  const std::string narrow = write("a.bin", bytes<uint16_t>({1, 65535}));
  EXPECT_THAT(tokens_of({{"path", narrow}}), ElementsAre(ElementsAre(1, 65535)));
  const std::string wide = write("b.bin", bytes<uint32_t>({1, 70000}));
  EXPECT_THAT(tokens_of({{"path", wide}, {"raw_type", "u32"}}), ElementsAre(ElementsAre(1, 70000)));
}

TEST_F(TokenFiles, AreCutAtTheSeparator) {
  const std::string path = write("a.bin", bytes<uint16_t>({5, 6, 0, 0, 7, 0}));
  EXPECT_THAT(tokens_of({{"path", path}, {"separator_id", int64_t{0}}}),
              ElementsAre(ElementsAre(5, 6), ElementsAre(7)));
}

TEST_F(TokenFiles, AreNumpyArrays) {
  const auto read = [&](const std::string& type, const std::string& data) {
    return tokens_of({{"path", write("a.npy", npy(npy_header(type, "(2,)"), data))}});
  };
  EXPECT_THAT(read("<u2", bytes<uint16_t>({3, 4})), ElementsAre(ElementsAre(3, 4)));
  EXPECT_THAT(read("<u4", bytes<uint32_t>({3, 70000})), ElementsAre(ElementsAre(3, 70000)));
  EXPECT_THAT(read("<i4", bytes<int32_t>({3, 4})), ElementsAre(ElementsAre(3, 4)));
}

TEST_F(TokenFiles, AreHdf5WithOrWithoutDocumentOffsets) {
  const std::vector<uint16_t> ids = {1, 2, 3};
  const std::string plain =
      write_hdf5("a.h5", [&](hdf5::File& file) { file.write<uint16_t>("/tokens", {3}, ids); });
  EXPECT_THAT(tokens_of({{"path", plain}}), ElementsAre(ElementsAre(1, 2, 3)));
  const std::vector<int64_t> offsets = {0, 1, 1, 3};
  const std::string cut = write_hdf5("b.h5", [&](hdf5::File& file) {
    file.write<uint16_t>("/tokens", {3}, ids);
    file.write<int64_t>("/document_offsets", {4}, offsets);
  });
  EXPECT_THAT(tokens_of({{"path", cut}}), ElementsAre(ElementsAre(1), ElementsAre(2, 3)));
}

TEST_F(TokenFiles, OfAFolderAreThoseWithAKnownExtension) {
  write("d/README", "not tokens");
  write("d/2.bin", bytes<uint16_t>({2}));
  write("d/1.bin", bytes<uint16_t>({1}));
  EXPECT_THAT(tokens_of({{"path", (folder_ / "d").string()}, {"type", "tokens"}}),
              ElementsAre(ElementsAre(1), ElementsAre(2)));
}

TEST_F(TokenFiles, SayWhatIsWrongWithThem) {
  EXPECT_EQ(error(write("a.bin", "abc")), ": 3 bytes are no whole number of u16 tokens");
  EXPECT_EQ(error(write("a.npy", "abc")), ": not a NumPy file");
  EXPECT_EQ(error(write("b.npy", npy(npy_header("<f4", "(2,)"), "12345678"))),
            ": found an array of type '<f4' and shape (2,), expected one dimension of '<u2', "
            "'<u4' or '<i4'");
  EXPECT_EQ(error(write("c.npy", npy(npy_header("<u2", "(2, 2)"), "12345678"))),
            ": found an array of type '<u2' and shape (2, 2), expected one dimension of '<u2', "
            "'<u4' or '<i4'");
  EXPECT_EQ(error(write("d.npy", npy(npy_header("<u2", "(5,)"), "12345678"))),
            ": its header promises 5 tokens of 2 bytes, but 8 bytes follow");
  EXPECT_EQ(error(write("e.npy", npy(npy_header("<u2", "(5,)"), "").substr(0, 30))),
            ": its header is cut off");
  EXPECT_EQ(error(write("f.npy", npy(npy_header("<u4", "(1,)"), "\xFF\xFF\xFF\xFF"))),
            ": token 0 is 4294967295, more than any vocabulary has");
}

TEST_F(TokenFiles, OfHdf5SayWhatIsWrongWithThem) {
  const std::vector<float> floats = {1};
  const std::vector<int32_t> ids = {1, 2};
  const std::vector<int64_t> offsets = {0, 1};
  EXPECT_EQ(
      error(write_hdf5("a.h5", [&](hdf5::File& file) { file.write<float>("/x", {1}, floats); })),
      ": no dataset /tokens");
  EXPECT_EQ(error(write_hdf5("b.h5",
                             [&](hdf5::File& file) { file.write<float>("/tokens", {1}, floats); })),
            ": /tokens is of type f32, expected u16, u32 or i32");
  EXPECT_EQ(error(write_hdf5("c.h5",
                             [&](hdf5::File& file) {
                               file.write<int32_t>("/tokens", {2}, ids);
                               file.write<int64_t>("/document_offsets", {2}, offsets);
                             })),
            ": /document_offsets does not rise from 0 to the 2 tokens");
}

}  // namespace
}  // namespace sluice
