// prepare at scale: any number of threads, packed inputs, text that is not UTF-8, and work that goes on after it was stopped.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <map>

#include "data/journal.h"
#include "data/prepare.h"
#include "data/shard.h"
#include "tensor/parallel.h"
#include "tensor/random.h"
#include "tests/data/texts.h"
#include "tests/support/scratch.h"

using namespace taper;
using test::documents_of;
using test::expect_failure;
using test::gzip;
using test::Scratch;
namespace fs = std::filesystem;

namespace {

struct Threads {  // back to what it was at the end
  int before = thread_count();
  explicit Threads(int n) { set_thread_count(n); }
  ~Threads() { set_thread_count(before); }
};

std::string words(uint64_t seed, size_t bytes) {
  const Random random(seed, "words");
  constexpr const char* parts[] = {"alpha ", "be", "ta ", "gam", "ma\n", "\xc3\xa9t\xc3\xa9 ", "\xe2\x82\xac", "7 "};
  std::string text;
  for (uint64_t i = 0; text.size() < bytes; ++i) text += parts[random.below(i, 8)];
  return text;
}

std::string lines(uint64_t seed, int count, size_t longest) {
  const Random random(seed, "lines");
  std::string text;
  for (int i = 0; i < count; ++i) {
    std::string document = words(seed * 1'000 + uint64_t(i), 1 + random.below(uint64_t(i), longest));
    for (size_t at = 0; (at = document.find('\n', at)) != document.npos; at += 2) document.replace(at, 1, "\\n");
    text += "{\"text\": \"" + document + "\", \"n\": " + std::to_string(i) + "}\n";
  }
  return text;
}

// Lines, a long text that spans several blocks, packed ones, an empty one.
void write_corpus(const Path& in) {
  fs::create_directories(in);
  write_file(in / "a.jsonl", lines(1, 300, 400));
  write_file(in / "b.txt", words(2, 400'000));
  write_file(in / "c.jsonl.gz", gzip(lines(3, 200, 900)));
  write_file(in / "d.txt.gz", gzip(words(4, 30'000)));
  write_file(in / "e.txt", "");
  write_file(in / "f.png", "no text");
  write_file(in / "g.ndjson", "{\"text\": \"\"}\n" + lines(5, 100, 3'000));
}

PrepareOptions options_for(const Scratch& dir, const char* out) {
  PrepareOptions o{.inputs = {dir / "in"}, .output = dir / out, .validation = 0.1, .shard_tokens = 290'000};
  o.unit_bytes = 3'000;
  o.batch_bytes = 20'000;
  return o;
}

std::map<std::string, std::string> shards_in(const Path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(directory))
    if (!entry.path().filename().string().starts_with("journal")) files[entry.path().filename().string()] = read_file(entry.path());
  return files;
}

bool same_report(const PrepareReport& a, const PrepareReport& b) {
  auto split = [](const PrepareReport::Split& s) { return std::vector{s.documents, s.bytes, s.tokens, s.shards}; };
  return split(a.train) == split(b.train) && split(a.validation) == split(b.validation) && a.files == b.files && a.skipped_files == b.skipped_files &&
         a.empty == b.empty && a.left_out == b.left_out && a.replaced == b.replaced && a.unigram_bits_per_byte == b.unigram_bits_per_byte;
}

}  // namespace

TEST_CASE("the shards are the same for any number of threads, and however the text is cut for them") {
  const Scratch dir;
  write_corpus(dir / "in");
  PrepareReport first;
  std::map<std::string, std::string> wanted;
  int run = 0;
  for (const int threads : {1, 2, 3, 8, 64}) {
    const Threads set(threads);
    for (const int64_t unit : {100, 3'000, 65'536}) {
      PrepareOptions o = options_for(dir, "out");
      o.unit_bytes = unit;
      o.batch_bytes = unit == 100 ? 5'000 : int64_t(1) << 20;
      o.overwrite = true;
      const PrepareReport report = prepare(o);
      const auto shards = shards_in(dir / "out");
      if (run++ == 0) first = report, wanted = shards;
      CHECK_MESSAGE((shards == wanted), threads, " threads, units of ", unit);
      CHECK(same_report(report, first));
    }
  }
  CHECK(first.files == 6);
  CHECK(first.skipped_files == 1);
  CHECK(first.empty == 2);  // the file and the line
  CHECK(first.train.documents + first.validation.documents == 602);
  CHECK(first.train.shards == 3);
  CHECK(first.validation.shards == 1);
  CHECK(first.note.empty());
}

TEST_CASE("texts are packed as they are, whatever packs them") {
  const Scratch dir;
  write_corpus(dir / "in");
  PrepareOptions o = options_for(dir, "out");
  o.validation = 0;
  prepare(o);
  const auto documents = documents_of(dir / "out", "train");
  REQUIRE(documents.size() == 602);
  CHECK((documents[300] == words(2, 400'000)));
  CHECK((documents[501] == words(4, 30'000)));
  CHECK((documents[601] == words(5'099, documents[601].size())));
}

TEST_CASE("inputs that are held out as a whole") {
  const Scratch dir;
  write_corpus(dir / "in");
  fs::create_directories(dir / "held");
  write_file(dir / "held/x.jsonl", lines(9, 20, 50));
  write_file(dir / "held/y.txt", "held out text");
  PrepareOptions o = options_for(dir, "out");
  o.validation = 0;
  o.held_out = {dir / "held"};
  const PrepareReport report = prepare(o);
  CHECK(report.train.documents == 602);
  CHECK(report.validation.documents == 21);
  CHECK(documents_of(dir / "out", "validation").back() == "held out text");
}

TEST_CASE("a token of a long text is that of the whole text: cut only where the tokenizer splits") {
  const Scratch dir;
  fs::create_directories(dir / "in");
  std::string vocabulary;
  int id = 1;
  for (int c = 0; c < 256; ++c) vocabulary += std::to_string(id++) + " b'\\x" + fmt::format("{:02x}", c) + "' 1\n";
  for (const char* word : {"alpha ", "pha b", "beta", "gamma", "gam", "7 7"}) vocabulary += fmt::format("{} '{}' {}\n", id++, word, std::string(word).size());
  write_file(dir / "vocab.txt", vocabulary);
  const std::string text = words(2, 300'000);
  write_file(dir / "in/b.txt", text);
  const auto tokenizer = open_tokenizer((dir / "vocab.txt").string());
  std::vector<int32_t> wanted{tokenizer->eod()};
  tokenizer->encode(text, wanted, {.special = false});
  for (const int64_t unit : {10, 1'000, 65'536}) {
    PrepareOptions o = options_for(dir, "out");
    o.tokenizer = (dir / "vocab.txt").string();
    o.unit_bytes = unit;
    o.validation = 0;
    o.overwrite = true;
    const PrepareReport report = prepare(o);
    const TokenStream stream(dir / "out", "train");
    std::vector<int32_t> tokens(size_t(stream.tokens()));
    stream.read(0, tokens);
    CHECK((tokens == wanted));
    CHECK(report.forced_cuts == 0);
    CHECK(fs::exists(dir / "out/vocab.txt"));
  }
}

TEST_CASE("what is not UTF-8: an error with its place, U+FFFD, left out, or kept") {
  const Scratch dir;
  fs::create_directories(dir / "in");
  const std::string r = "\xef\xbf\xbd";
  write_file(dir / "in/a.txt", std::string(200'000, 'a') + "\xff" + "b\xe2\x82");
  write_file(dir / "in/b.jsonl", "{\"text\": \"good\"}\n{\"text\": \"b\xc3(d\"}\n{\"text\": \"half \\ud800\"}\n");
  PrepareOptions o{.inputs = {dir / "in/a.txt"}, .output = dir / "out", .validation = 0};
  o.overwrite = true;
  auto path = [&](const char* name) { return (dir / "in" / name).string(); };
  expect_failure([&] { prepare(o); }, Exit::bad_data, path("a.txt") + ": not UTF-8 at byte 200000; give --invalid-utf8 replace, skip or keep to go on");
  o.inputs = {dir / "in/b.jsonl"};
  expect_failure([&] { prepare(o); }, Exit::bad_data, path("b.jsonl") + ":2: not UTF-8 at byte 12 of the line; give --invalid-utf8 replace or skip to go on");
  o.invalid_utf8 = InvalidUtf8::keep;  // JSON is UTF-8
  expect_failure([&] { prepare(o); }, Exit::bad_data, ":2: not UTF-8 at byte 12 of the line");
  write_file(dir / "in/c.jsonl", "{\"text\": \"half \\ud800\"}\n");
  o.inputs = {dir / "in/c.jsonl"};
  expect_failure([&] { prepare(o); }, Exit::bad_data, ":1: half a surrogate pair at byte 16 of the line is no character");

  o.inputs = {dir / "in"};
  o.invalid_utf8 = InvalidUtf8::replace;
  PrepareReport report = prepare(o);
  CHECK(report.replaced == 4);
  CHECK((documents_of(dir / "out", "train") ==
         std::vector<std::string>{std::string(200'000, 'a') + r + "b" + r, "good", "b" + r + "(d", "half " + r, "half " + r}));
  o.invalid_utf8 = InvalidUtf8::skip;
  report = prepare(o);
  CHECK(report.left_out == 4);
  CHECK(report.files == 3);
  CHECK(documents_of(dir / "out", "train") == std::vector<std::string>{"good"});
  o.invalid_utf8 = InvalidUtf8::keep;
  o.inputs = {dir / "in/a.txt"};
  prepare(o);
  CHECK((documents_of(dir / "out", "train") == std::vector<std::string>{std::string(200'000, 'a') + "\xff" + "b\xe2\x82"}));
}

TEST_CASE("a file in a directory that is not text is left out, even where it is not UTF-8 before its NUL") {
  const Scratch dir;
  fs::create_directories(dir / "in");
  write_file(dir / "in/good.txt", "good");
  write_file(dir / "in/other", "\xff\xfe" + std::string(300'000, 'x') + std::string(1, '\0'));
  const PrepareReport report = prepare({.inputs = {dir / "in"}, .output = dir / "out", .validation = 0});
  CHECK(report.files == 1);
  CHECK(report.skipped_files == 1);
}

TEST_CASE("the first error in the order of the input is the one that is told") {
  const Scratch dir;
  fs::create_directories(dir / "in");
  write_file(dir / "in/a.jsonl", lines(1, 300, 400) + "{\"text\": 3}\n" + lines(2, 300, 400) + "{bad}\n");
  write_file(dir / "in/b.jsonl.gz", gzip("x").substr(0, 10));
  for (const int threads : {1, 2, 8}) {
    const Threads set(threads);
    for (int i = 0; i < 5; ++i)
      expect_failure([&] { prepare(options_for(dir, "out")); }, Exit::bad_data, "a.jsonl:301: wants an object with a string 'text'; see --field");
  }
}

// Runs prepare in a child; true when it ended well.
bool in_child(const std::function<void()>& work, int kill_after_microseconds = -1) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      work();
      ::_exit(0);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
      ::_exit(1);
    }
  }
  if (kill_after_microseconds >= 0) {
    ::usleep(useconds_t(kill_after_microseconds));
    ::kill(child, SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK((WIFSIGNALED(status) || WEXITSTATUS(status) == 0));
  return WIFEXITED(status);
}

TEST_CASE("killed after any number of rounds, again and again, it goes on to the same shards") {
  const Scratch dir;
  const Threads one(1);  // a child has no other threads
  write_corpus(dir / "in");
  const PrepareOptions o = options_for(dir, "out");
  prepare(options_for(dir, "whole"));
  const auto wanted = shards_in(dir / "whole");
  for (const int kill_at : {4, 7, 11, 30}) {
    int runs = 1;
    for (bool done = false; !done; ++runs) {
      REQUIRE(runs < 300);
      done = in_child([&] {
        set_thread_count(1 + runs % 3);
        int round = 0, asked = 0;
        prepare(o, {.progress = [&](const PrepareProgress& p) { if (p.done > p.begun && ++round == kill_at) ::raise(SIGKILL); },
                    .save = [&](bool) { return ++asked % 2 == 0 || runs % 4 == 0; }});
      });
      CHECK(fs::exists(dir / "out") == done);
    }
    CHECK((shards_in(dir / "out") == wanted));
    CHECK(!fs::exists(dir / "out.partial"));
    CHECK(!fs::exists(dir / "out/journal"));
    if (kill_at <= 11) CHECK(runs > 3);
    fs::remove_all(dir / "out");
  }
}

TEST_CASE("killed at any instant, it goes on to the same shards") {
  const Scratch dir;
  const Threads one(1);
  write_corpus(dir / "in");
  const PrepareOptions o = options_for(dir, "out");
  prepare(options_for(dir, "whole"));
  const auto wanted = shards_in(dir / "whole");
  const Random random(5, "instants");
  uint64_t draw = 0;
  int kills = 0;
  for (int i = 0; i < 4; ++i) {
    int runs = 0;
    for (bool done = false; !done; ++runs) {
      done = in_child([&] { prepare(o, {.save = [](bool) { return true; }}); }, runs < 60 ? int(random.below(draw++, 40'000)) : -1);
      kills += !done;
      if (fs::exists(dir / "out")) CHECK((shards_in(dir / "out") == wanted));  // never a part
      if (fs::exists(dir / "out")) done = true;  // killed after the last step
    }
    fs::remove_all(dir / "out");
    fs::remove_all(dir / "out.partial");
  }
  CHECK(kills >= 4);
}

TEST_CASE("a fault at any call leaves what was saved, and the next run ends it") {
  const Scratch dir;
  fs::create_directories(dir / "in");
  write_file(dir / "in/a.jsonl", lines(1, 60, 200));
  write_file(dir / "in/b.txt", words(2, 20'000));
  PrepareOptions o = options_for(dir, "out");
  o.shard_tokens = 9'000;
  o.batch_bytes = 2'000;
  PrepareOptions whole = o;
  whole.output = dir / "whole";
  prepare(whole);
  const auto wanted = shards_in(dir / "whole");
  for (const char* call : {"open", "write", "fsync", "rename", "read"}) {
    int64_t faults = 0, resumed = 0;
    for (bool failed = true; failed; faults += 1 + faults / 8) {
      inject_file_fault(call, faults + 1, EIO);
      try {
        prepare(o, {.save = [](bool) { return true; }});
        failed = false;
      } catch (const Error& e) {
        CHECK((e.code == Exit::io || e.code == Exit::cannot_create));
        CHECK(std::string(e.what()).find("Input/output error") != std::string::npos);
      }
      inject_file_fault(call, 0, 0);
      if (failed) {
        // The error may have come after the directory got its name: then it is whole.
        if (!fs::exists(dir / "out")) resumed += prepare(o, {.save = [](bool) { return true; }}).resumed_documents > 0;
      }
      CHECK_MESSAGE((shards_in(dir / "out") == wanted), std::string(call), " ", faults + 1);
      fs::remove_all(dir / "out");
      fs::remove_all(dir / "out.partial");
    }
    CHECK(faults > 3);
    CHECK_MESSAGE(resumed > 0, std::string(call));
  }
}

namespace {

// Work that stopped behind `rounds` rounds; with `keep` it is saved then.
void stop_after(const PrepareOptions& o, int rounds, bool keep, const std::string& message) {
  int round = 0;
  expect_failure([&] {
    prepare(o, {.progress = [&](const PrepareProgress& p) { if (p.done > 0 && ++round >= rounds) fail(Exit::failure, "stopped"); },
                .save = [&](bool ending) { return ending && keep; }});
  }, Exit::failure, message);
}

}  // namespace

TEST_CASE("stopped early: the work is kept where it is asked for, else nothing is") {
  const Scratch dir;
  write_corpus(dir / "in");
  const PrepareOptions o = options_for(dir, "out");
  stop_after(o, 20, false, "stopped");
  CHECK(!fs::exists(dir / "out.partial"));
  stop_after(o, 20, true, "stopped; what was done before is kept in " + (dir / "out.partial").string() + ": the same command goes on from there");
  CHECK(fs::exists(dir / "out.partial/journal"));
  expect_failure([&] { TokenStream(dir / "out.partial", "train"); }, Exit::bad_data, "not a good shard");
  stop_after(o, 20, false, "stopped; what was done before is kept in");  // kept all the same
  PrepareProgress first;
  const PrepareReport report = prepare(o, {.progress = [&](const PrepareProgress& p) { if (first.total == 0 && p.begun > 0) first = p; }});
  CHECK(report.resumed_documents > 50);
  CHECK(report.resumed_documents < 602);
  CHECK(first.begun > 0);
  prepare(options_for(dir, "whole"));
  CHECK((shards_in(dir / "out") == shards_in(dir / "whole")));
}

TEST_CASE("unfinished work of other options or inputs is refused, and stays") {
  const Scratch dir;
  write_corpus(dir / "in");
  const PrepareOptions o = options_for(dir, "out");
  stop_after(o, 30, true, "stopped");  // in or behind b.txt
  const std::string partial = (dir / "out.partial").string();
  auto refused = [&](const PrepareOptions& other, Exit code, const std::string& text) {
    expect_failure([&] { prepare(other); }, code, text);
    CHECK(fs::exists(dir / "out.partial/journal"));
  };
  PrepareOptions other = o;
  other.shard_tokens = 1'000;
  refused(other, Exit::cannot_create,
          partial + ": holds unfinished work with shard-tokens 290000; this is another: 1000; give the same to go on, or start over with --restart");
  other = o;
  other.validation = 0.2;
  refused(other, Exit::cannot_create, "unfinished work with validation 0.1; this is another: 0.2");
  other = o;
  other.text_field = "n";
  refused(other, Exit::cannot_create, "unfinished work with field text; this is another: n");
  other = o;
  other.inputs = {dir / "in/b.txt"};
  refused(other, Exit::bad_data,
          (dir / "in/a.jsonl").string() + ": file 1 of the inputs was this one when the work stopped; now it is " + (dir / "in/b.txt").string());
  other.inputs = {};
  refused(other, Exit::no_input, "no input was named");

  // A file that was packed: another size, another byte, another time only.
  const std::string a = read_file(dir / "in/a.jsonl"), b = read_file(dir / "in/b.txt");
  write_file(dir / "in/a.jsonl", a + "\n");
  refused(o, Exit::bad_data, (dir / "in/a.jsonl").string() + ": is not what it was when it was packed; bring it back, or start over with --restart");
  std::string changed = a;
  changed[20] ^= 1;
  write_file(dir / "in/a.jsonl", changed);
  refused(o, Exit::bad_data, "a.jsonl: is not what it was when it was packed");
  write_file(dir / "in/a.jsonl", a);
  // The file it was in.
  changed = b;
  changed[100] = changed[100] == 'x' ? 'y' : 'x';
  write_file(dir / "in/b.txt", changed);
  refused(o, Exit::bad_data, (dir / "in/b.txt").string() + ": is not what it was when ");
  write_file(dir / "in/b.txt", b);
  // The journal itself.
  const std::string journal = read_file(dir / "out.partial/journal");
  for (size_t i = 0; i < journal.size(); i += journal.size() / 50) {
    std::string bad = journal;
    bad[i] ^= 4;
    write_file(dir / "out.partial/journal", bad);
    refused(o, Exit::bad_data, "journal: damaged, so that the unfinished work cannot go on; start over with --restart");
  }
  for (const size_t size : {size_t(0), size_t(10), size_t(23), journal.size() - 1}) {
    write_file(dir / "out.partial/journal", journal.substr(0, size));
    refused(o, Exit::bad_data, "journal: damaged");
  }
  write_file(dir / "out.partial/journal", journal);
  const std::string record = read_file(dir / "out.partial/journal.files");
  const auto damaged = [&](const std::string& from, const std::string& to) {
    std::string bad = record;
    REQUIRE(bad.find(from) != std::string::npos);
    write_file(dir / "out.partial/journal.files", bad.replace(bad.find(from), from.size(), to));
    refused(o, Exit::bad_data, "journal.files: damaged, so that the unfinished work cannot go on; start over with --restart");
  };
  damaged("[", " ");
  damaged("false", "    0");
  damaged("\"" + (dir / "in/a.jsonl").string() + "\"", "[" + std::string((dir / "in/a.jsonl").string().size(), ' ') + "]");
  write_file(dir / "out.partial/journal.files", record.substr(0, 20));
  refused(o, Exit::bad_data, "journal.files: truncated: ");
  write_file(dir / "out.partial/journal.files", record);
  CHECK(prepare(o).resumed_documents > 0);  // nothing of the above did it any harm
  prepare(options_for(dir, "whole"));
  CHECK((shards_in(dir / "out") == shards_in(dir / "whole")));

  fs::remove_all(dir / "out");
  stop_after(o, 30, true, "stopped");
  other = o;
  other.validation = 0;
  other.restart = true;
  CHECK(prepare(other).resumed_documents == 0);
  CHECK(!fs::exists(dir / "out.partial"));
  CHECK(!fs::exists(dir / "out/validation-00000.shard"));
}

TEST_CASE("a file whose name is not UTF-8 is packed and saved as any other; of two whose names look alike each is itself") {
  const Scratch dir;
  fs::create_directories(dir / "in");
  for (const char* name : {"in/a\xe8.txt", "in/a\xe9.txt"}) write_file(dir / name, words(uint64_t(uint8_t(name[4])), 400'000));
  const PrepareOptions o = options_for(dir, "out");
  stop_after(o, 30, true, "stopped");
  CHECK(read_file(dir / "out.partial/journal.files").find("in/a\xef\xbf\xbd.txt\"") != std::string::npos);
  const Path first = dir / "in/a\xe8.txt", second = dir / "in/a\xe9.txt";
  fs::rename(first, dir / "in/b");  // the names change places
  fs::rename(second, first);
  fs::rename(dir / "in/b", second);
  expect_failure([&] { prepare(o); }, Exit::bad_data, first.string() + ": is not what it was when ");
  fs::rename(first, dir / "in/b");
  fs::rename(second, first);
  fs::rename(dir / "in/b", second);
  CHECK(prepare(o).files == 2);
  prepare(options_for(dir, "whole"));
  CHECK((shards_in(dir / "out") == shards_in(dir / "whole")));
  PrepareOptions field = options_for(dir, "other");
  field.text_field = "t\xe9";
  expect_failure([&] { prepare(field); }, Exit::bad_config, "prepare: the field of JSON lines must be UTF-8, as they are; 't\xe9' is not");
}

TEST_CASE("a bad line stops the work; repaired, or passed over by a policy, it goes on from there") {
  const Scratch dir;
  write_corpus(dir / "in");
  const std::string good = read_file(dir / "in/g.ndjson");
  write_file(dir / "in/g.ndjson", good + "{\"text\": \"\xff\"}\n");
  const PrepareOptions o = options_for(dir, "out");
  expect_failure([&] { prepare(o, {.save = [](bool ending) { return ending; }}); }, Exit::bad_data,
                 "g.ndjson:102: not UTF-8 at byte 11 of the line; give --invalid-utf8 replace or skip to go on; what was done before is kept in ");
  fs::copy(dir / "out.partial", dir / "aside", fs::copy_options::recursive);
  PrepareOptions skip = o;
  skip.invalid_utf8 = InvalidUtf8::skip;
  PrepareReport report = prepare(skip);
  CHECK(report.resumed_documents > 400);
  CHECK(report.left_out == 1);
  PrepareOptions whole = options_for(dir, "whole");
  whole.invalid_utf8 = InvalidUtf8::skip;
  prepare(whole);
  CHECK((shards_in(dir / "out") == shards_in(dir / "whole")));

  fs::remove_all(dir / "out");
  fs::rename(dir / "aside", dir / "out.partial");
  write_file(dir / "in/g.ndjson", good);
  CHECK(prepare(o).resumed_documents > 400);
  CHECK((shards_in(dir / "out") == shards_in(dir / "whole")));
}
