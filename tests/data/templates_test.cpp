// templates: ours, the user's, and which are the published ones.
#include "data/tasks/templates.h"

#include "data/sha256.h"
#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;
using test::Scratch;

TEST_CASE("fill: places by name, values not looked at again, other braces as they are") {
  CHECK(fill("{a} {b}{a}", {{"a", "x"}, {"b", "{a}"}}) == "x {a}x");
  CHECK(fill("{ {a", {{"a", "x"}}) == "{ {a");
  CHECK(fill("{other} {a}", {{"a", ""}}) == "{other} ");
  CHECK(fill("{{a}}", {{"a", "x"}}) == "{x}");
}

TEST_CASE("ours are not taken for the published ones") {
  const Templates t;
  for (const char* name : {"niah", "niah_needle", "niah_repeat", "niah_prefix_one", "niah_prefix_many", "vt", "vt_prefix", "vt_noise", "cwe", "cwe_prefix",
      "fwe",
                           "fwe_prefix", "qa"}) {
    CAPTURE(name);
    CHECK_FALSE(t.published({name}));
    CHECK_FALSE(t[name].empty());
  }
  CHECK(t.published({"qa_prefix", "qa_document"}));  // too short to be anybody's
  CHECK_FALSE(t.published({"qa_prefix", "qa"}));
  CHECK(t["vt_noise"].ends_with(".\n"));
}

TEST_CASE("the user's: known by length and digest, with or without an editor's newline; places are checked") {
  const Scratch s;
  expect_failure([&] { Templates t(s.path); }, Exit::no_input, "holds no template; wanted are files like niah.txt");
  write_file(s / "qa_prefix.txt", "Answer:\n");
  write_file(s / "qa_document.txt", "Document {i}:\n{document}");
  write_file(s / "cwe.txt", "My list {context}\n");
  write_file(s / "niah.txt", "Some {type_needle_v} {context} {query}");
  const Templates t(s.path);
  CHECK(t["qa_prefix"] == "Answer:");
  CHECK(t.published({"qa_prefix", "qa_document"}));
  CHECK(t["cwe"] == "My list {context}");
  CHECK_FALSE(t.published({"cwe"}));
  CHECK(t["vt"] == Templates()["vt"]);  // not brought: ours
  write_file(s / "vt_noise.txt", "Noise.\n");
  CHECK(Templates(s.path)["vt_noise"] == "Noise.\n");  // its newline is part of it
  write_file(s / "niah.txt", "Some {type} {query}");
  expect_failure([&] { Templates x(s.path); }, Exit::bad_data, "niah.txt: the template wants {context}; it is not there");
}
