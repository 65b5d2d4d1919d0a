// haystack: the built-in text, files, sentences; and the word lists.
#include "data/tasks/haystack.h"

#include <algorithm>
#include <set>

#include "data/tasks/python_text.h"
#include "data/tasks/words.h"
#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;

TEST_CASE("synthetic: 20000 sentences and more, all different, without a digit, each one sentence") {
  std::set<std::string> all;
  for (uint64_t i = 0; i < 20000; ++i) {
    const std::string s = synthetic_sentence(i);
    REQUIRE(s.find_first_of("0123456789") == std::string::npos);
    REQUIRE(s.ends_with('.'));
    REQUIRE(('A' <= s[0] && s[0] <= 'Z'));
    all.insert(s);
  }
  CHECK(all.size() == 20000);
  std::string text;
  for (uint64_t i = 0; i < 500; ++i) text += synthetic_sentence(i) + " ";
  const auto sentences = split_sentences(text);
  REQUIRE(sentences.size() == 500);
  for (uint64_t i = 0; i < 500; ++i) REQUIRE(sentences[i] == synthetic_sentence(i));
  CHECK(text.find(" a a") == std::string::npos);  // an, before a vowel
  CHECK(text.find(" a o") == std::string::npos);
}

TEST_CASE("front: whole words of one text") {
  const Haystack h = Haystack::synthetic(100);
  CHECK(h.words() >= 100);
  CHECK(python::words(h.front(57)).size() == 57);
  CHECK(h.front(0).empty());
  CHECK(h.front(3).starts_with(h.front(2)));
  const Haystack longer = Haystack::synthetic(1000);
  CHECK(longer.front(100) == h.front(100));
  CHECK(h.name() == "synthetic");
  CHECK_FALSE(h.repeated());
}

TEST_CASE("files: joined, whitespace made single spaces, repeated where they are short") {
  const test::Scratch s;
  write_file(s / "a.txt", "One  two.\nThree");
  write_file(s / "b.txt", "\tfour");
  write_file(s / "empty.txt", " \n");
  const Haystack h = Haystack::of_files({s / "a.txt", s / "b.txt"}, 6);
  CHECK(h.front(6) == "One two. Three four One two.");
  CHECK(h.repeated());
  CHECK(h.name() == "a.txt b.txt");
  CHECK_FALSE(Haystack::of_files({s / "a.txt"}, 2).repeated());
  CHECK(Haystack::of_files({s / "a.txt"}, 2).words() == 3);
  expect_failure([&] { Haystack::of_files({s / "empty.txt"}, 2); }, Exit::bad_data, "empty.txt: a haystack must hold text; it holds none");
}

TEST_CASE("sentences end where one would say so") {
  const auto split = [](std::string_view text) { return split_sentences(text); };
  using Parts = std::vector<std::string_view>;
  CHECK(split("One. Two! Three? four") == Parts{"One.", "Two!", "Three? four"});
  CHECK(split("He said \"Go.\" Then he went (really.) And so on") == Parts{"He said \"Go.\"", "Then he went (really.)", "And so on"});
  CHECK(split("Dr. Who met J. Smith etc. Then 3.14 was pi. 2 is not.") == Parts{"Dr. Who met J. Smith etc. Then 3.14 was pi.", "2 is not."});
  CHECK(split("Wait... What?! Yes.") == Parts{"Wait...", "What?!", "Yes."});
  CHECK(split("Fin. École \"quoted\" x. \"Open\" y.") == Parts{"Fin.", "École \"quoted\" x.", "\"Open\" y."});
  CHECK(split("").empty());
  CHECK(split(" no end ") == Parts{" no end"});
}

TEST_CASE("words: sorted, each once, lower case, and enough of them") {
  const Words& w = built_in_words();
  CHECK(w.adjectives.size() >= 400);
  CHECK(w.nouns.size() >= 900);
  CHECK(w.verbs.size() >= 600);
  for (const auto* list : {&w.adjectives, &w.nouns, &w.verbs}) {
    CHECK(std::ranges::is_sorted(*list));
    CHECK(std::ranges::adjacent_find(*list) == list->end());
    for (const std::string& word : *list) REQUIRE(word.find_first_not_of("abcdefghijklmnopqrstuvwxyz") == std::string::npos);
  }
}
