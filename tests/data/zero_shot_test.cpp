// zero_shot: each task's rule on hand-made records, in both spellings of the fields; and records that do not fit.
#include "data/tasks/zero_shot.h"

#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;
using test::Scratch;

namespace {

TaskDocuments read(const Scratch& s, const char* task, const std::string& lines, int64_t limit = 0) {
  write_file(s / (std::string(task) + ".jsonl"), lines);
  return read_task(*find_zero_shot_task(task), s.path, limit);
}

void asks(const TaskDocument& d, size_t i, const std::string& context, const std::string& continuation, int64_t length) {
  REQUIRE(i < d.choices.size());
  CHECK(d.choices[i].context == context);
  CHECK(d.choices[i].continuation == continuation);
  CHECK(d.choices[i].length == length);
}

}  // namespace

TEST_CASE("lambada_openai: the last piece between single spaces") {
  const Scratch s;
  const auto d =
      read(s, "lambada_openai",
           "{\"text\": \"He said  hello\\nto Bob\"}\n\n{\"text\": \"one\"}\n{\"text\": \"ends with \"}\n{\"text\": \"über  naïve\"}\n{\"text\": \"a\\tb c\"}\n")
          .documents;
  REQUIRE(d.size() == 5);
  asks(d[0], 0, "He said  hello\nto", " Bob", 3);
  asks(d[1], 0, "", " one", 3);
  asks(d[2], 0, "ends with", " ", 0);
  asks(d[3], 0, "über ", " naïve", 5);
  asks(d[4], 0, "a\tb", " c", 1);
  CHECK(d[1].where == (s / "lambada_openai.jsonl").string() + ":3");  // lines, the empty one counted
}

TEST_CASE("hellaswag: cleaned, ctx_b capitalized, lengths in code points after cleaning") {
  const Scratch s;
  const auto d =
      read(s, "hellaswag",
           R"({"activity_label": "Baking", "ctx_a": "A man stirs.", "ctx_b": "the DOUGH", "endings": ["rises [x] now", "ÉTÉ  a   b", "", "a"], "label": "3"}
{"activity_label": "Home", "ctx_a": "[header] How to [title] Cut  it [step] x", "ctx_b": "", "endings": ["a", "b", "c", "d"], "label": 0}
{"activity_label": " A", "ctx_a": "b", "ctx_b": "éTÉ ßX", "endings": [" [title] z", "b [unclosed", "[a [b] c]", "日本"], "label": 1, "ind": 4}
{"activity_label": "A", "ctx_a": "b", "ctx_b": "c", "endings": ["a", "b", "c", "d"], "label": 2}
{"activity_label": "A", "ctx_a": "b", "ctx_b": "ßa", "endings": ["a", "b", "c", "d"], "label": 2}
)")
          .documents;
  REQUIRE(d.size() == 5);
  for (size_t i = 0; i < 4; ++i) CHECK(d[0].choices[i].context == "Baking: A man stirs. The dough");
  asks(d[0], 0, "Baking: A man stirs. The dough", " rises now", 9);
  asks(d[0], 1, "Baking: A man stirs. The dough", " ÉTÉ a  b", 8);  // three spaces are two then
  asks(d[0], 2, "Baking: A man stirs. The dough", " ", 0);
  CHECK(d[0].gold == 3);
  CHECK(d[1].choices[0].context == "Home: How to. Cut it x");
  asks(d[2], 0, "A: b Été ßx", "  z", 2);  // stripped first, so that no " [title]" is left to become ". "
  asks(d[2], 1, "A: b Été ßx", " b [unclosed", 11);
  asks(d[2], 2, "A: b Été ßx", "  c]", 3);
  asks(d[2], 3, "A: b Été ßx", " 日本", 2);
  CHECK(d[4].choices[0].context == "A: b Ssa");
}

TEST_CASE("clean: what Python's rules give, order and all") {
  CHECK(clean_hellaswag("  How to cook [title] Step one [substeps] do   this    now  [x]") == "How to cook. Step one do  this  now ");
  CHECK(clean_hellaswag("a [b [c] d] [e\nf] g") == "a d] [e\nf] g");
  CHECK(clean_hellaswag("[header]  x [title][step] y") == " x. y");
  CHECK(clean_hellaswag("\u00a0x [title]") == "x. ");
  CHECK(clean_hellaswag("") == "");
}

TEST_CASE("piqa: labels inside, or in a file of their own") {
  const Scratch s;
  auto d = read(s, "piqa", R"({"goal": "Open a jar.", "sol1": "Twist é", "sol2": " pull", "label": 1}
{"goal": "g", "sol1": "a", "sol2": "b", "label": "0"}
)").documents;
  asks(d[0], 0, "Question: Open a jar.\nAnswer:", " Twist é", 7);
  asks(d[0], 1, "Question: Open a jar.\nAnswer:", "  pull", 5);
  CHECK(d[0].gold == 1);
  CHECK(d[1].gold == 0);
  const std::string bare = "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n";
  write_file(s / "piqa.lst", "1\n0\n");
  d = read(s, "piqa", bare + bare).documents;
  CHECK(d[0].gold == 1);
  CHECK(d[1].gold == 0);
  expect_failure([&] { read(s, "piqa", bare + bare + bare); }, Exit::bad_data, "piqa.lst: wants a label for every record of piqa.jsonl; it ends after 2");
}

TEST_CASE("arc and openbookqa: exports and originals, letters and digits, three to five choices") {
  const Scratch s;
  const std::string exported = R"({"question": "What is hot?", "choices": {"text": ["ice", "fire", "Å"], "label": ["1", "2", "3"]}, "answerKey": "2"})";
  const std::string original =
      R"({"id": "x", "question": {"stem": "What is cold?", "choices": [{"text": "ice", "label": "A"}, {"text": "fire", "label": "B"}, {"text": "c", "label": "C"}, {"text": "d", "label": "D"}, {"text": "e", "label": "E"}]}, "answerKey": "E"})";
  for (const char* task : {"arc_easy", "arc_challenge"}) {
    const auto d = read(s, task, exported + "\n" + original + "\n").documents;
    asks(d[0], 2, "Question: What is hot?\nAnswer:", " Å", 1);
    CHECK(d[0].choices.size() == 3);
    CHECK(d[0].gold == 1);
    asks(d[1], 0, "Question: What is cold?\nAnswer:", " ice", 3);
    CHECK(d[1].gold == 4);
  }
  const auto d = read(s, "openbookqa", R"({"question_stem": "The sun is", "choices": {"text": ["a star", "b"], "label": ["A", "B"]}, "answerKey": "  B"}
{"question": {"stem": "Frogs", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]}, "answerKey": "A"}
)").documents;
  asks(d[0], 0, "The sun is", " a star", 6);
  CHECK(d[0].gold == 1);
  asks(d[1], 1, "Frogs", " y", 1);
}

TEST_CASE("winogrande: the first _ parts the sentence; the option joins the context") {
  const Scratch s;
  const auto d = read(s, "winogrande", R"({"sentence": "Ann likes Eve because _ is kind_.  ", "option1": "Ann", "option2": "Eve", "answer": "2"}
{"sentence": "The dog chased _'s tail", "option1": "a", "option2": "b", "answer": "1"}
)").documents;
  asks(d[0], 0, "Ann likes Eve because Ann", " is kind_.", 9);
  asks(d[0], 1, "Ann likes Eve because Eve", " is kind_.", 9);
  CHECK(d[0].gold == 1);
  asks(d[1], 1, "The dog chased b", " 's tail", 7);
}

TEST_CASE("wikitext: detokenized to be scored, counted as it was; text: as it is, from lines or files") {
  const std::string page =
      " = Robert <unk> = \n\n He was born in 1 @,@ 234 , near ( the ) \" old house \" of the dogs ' owner ; it 's 20 @.@ 5 ° C . \n = = Early life = = \n"
      " The [ X ] and { y } 'd ' e ' . N men : none ! ? ";
  CHECK(detokenize_wikitext(page) ==
        " = Robert <unk> =\n\nHe was born in 1,234, near (the) \"old house\" of the dogs'owner; it's 20.5°C.\n== Early life ==\nThe [X] and {y} 'd' e '. 1 "
        "men: none!? ");
  CHECK(detokenize_wikitext("( open \" and = = = = x = = = y") == "( open \" and ==== x === y");
  CHECK(detokenize_wikitext("a/' 5/' 6/b /' x/ /' 7") == "a/'[0-9]/' 6/b /'x/ /' 7");  // a replacement that the harness takes for a pattern
  const Scratch s;
  const auto d = read(s, "wikitext", "{\"page\": \" a @-@ b c \"}\n{\"text\": \"é\"}\n").documents;
  CHECK(d[0].text == " a-b c ");
  CHECK(d[0].words == 6);
  CHECK(d[0].bytes == 11);
  CHECK(d[1].bytes == 2);
  expect_failure([&] { read_task(*find_zero_shot_task("text"), s.path, 0); }, Exit::no_input, "text.jsonl: no such file, and no .txt beside it");
  write_file(s / "b.txt", "two  words");
  write_file(s / "a.txt", "\xff");
  const auto files = read_task(*find_zero_shot_task("text"), s.path, 0);
  REQUIRE(files.documents.size() == 2);
  CHECK(files.documents[0].text == "\xff");
  CHECK(files.documents[1].words == 2);
  CHECK(read_task(*find_zero_shot_task("text"), s.path, 1).documents.size() == 1);
  CHECK(read_task(*find_zero_shot_task("text"), s.path, 1).all == 2);
  CHECK(read(s, "text", "{\"text\": \"x\"}\n").documents[0].text == "x");
}

TEST_CASE("limit: the first documents; how many there are is still known") {
  const Scratch s;
  const auto d = read(s, "lambada_openai", "{\"text\": \"a b\"}\n{\"text\": \"c d\"}\n{\"text\": \"e f\"}\n", 2);
  CHECK(d.documents.size() == 2);
  CHECK(d.all == 3);
}

TEST_CASE("records that do not fit are named by file and line") {
  const Scratch s;
  const auto refuses = [&](const char* task, const std::string& lines, const std::string& message) {
    CAPTURE(lines);
    expect_failure([&] { read(s, task, lines); }, Exit::bad_data, message);
  };
  refuses("piqa", "{\"goal\": \"g\", \"sol1\": \"a\"}\n", "piqa.jsonl:1: piqa wants the field 'sol2'; the record has goal, sol1");
  refuses("piqa", "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n", "piqa.jsonl:1: piqa wants the field 'label'; the record has goal, sol1, sol2");
  refuses("piqa", "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\", \"label\": 2}\n", "piqa.jsonl:1: piqa wants a number from 0 to 1 in 'label'; got 2");
  refuses("piqa", "\n{\"goal\": 3}\n", "piqa.jsonl:2: piqa wants text in 'goal'; got 3");
  refuses("piqa", "{\"goal\": [\"é\", \"" + std::string(5000, 'a') + "\"]}\n",
          "piqa.jsonl:1: piqa wants text in 'goal'; got [\"\\u00e9\",\"" + std::string(49, 'a') + "...");
  refuses("piqa", "{\"goal\":\n", "piqa.jsonl:1: a line must be one JSON value, in UTF-8; this one is not");
  refuses("piqa", "{\"goal\": \"\xff\"}\n", "piqa.jsonl:1: a line must be one JSON value, in UTF-8");
  refuses("piqa", "[1]\n", "piqa.jsonl:1: a record must be a JSON object; got array");
  refuses("piqa", "\n\n", "piqa.jsonl: holds no record");
  refuses("hellaswag", R"({"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["a"], "label": 0})",
      "hellaswag.jsonl:1: hellaswag wants four endings; got [\"a\"]");
  refuses("winogrande", R"({"sentence": "no blank", "option1": "a", "option2": "b", "answer": "1"})", "wants a '_' in the sentence; got \"no blank\"");
  refuses("winogrande", R"({"sentence": "a _", "option1": "a", "option2": "b", "answer": "3"})", "wants a number from 1 to 2 in 'answer'; got \"3\"");
  refuses("arc_easy", R"({"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"})",
      "wants an answerKey among the labels [\"A\",\"B\"]; got 'C'");
  refuses("arc_easy", R"({"question": "q", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"})",
      "at least two choices and a label for each; got 2 and 1");
  refuses("openbookqa", R"({"question": {"stem": "q"}, "answerKey": "A"})",
      "openbookqa wants the field 'question.choices'; the record has question, answerKey");
  expect_failure([&] { read_task(*find_zero_shot_task("arc_easy"), s / "nowhere", 0); }, Exit::no_input,
      "nowhere: no such directory; --data names the one that holds arc_easy.jsonl");
  const Scratch empty;
  expect_failure([&] { read_task(*find_zero_shot_task("piqa"), empty.path, 0); }, Exit::no_input, "piqa.jsonl");
  CHECK(find_zero_shot_task("piqua") == nullptr);
}
