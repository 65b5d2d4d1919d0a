// python_text: values that Python gives.
#include "data/tasks/python_text.h"

#include <doctest/doctest.h>

using namespace taper;

TEST_CASE("length counts code points, and stray bytes as one each") {
  CHECK(python::length("") == 0);
  CHECK(python::length("naïve") == 5);
  CHECK(python::length("e\u0301") == 2);  // no composition
  CHECK(python::length("日本🙂") == 3);
  CHECK(python::length("a\xff\xfe" "b") == 4);
}

TEST_CASE("strip and split know Unicode's whitespace, and nothing else is whitespace") {
  CHECK(python::strip("\u00a0\u3000 a b \x1c\n") == "a b");
  CHECK(python::rstrip(" a\u2003") == " a");
  CHECK(python::strip("\u200b") == "\u200b");  // zero width space: no
  CHECK(python::strip(" \t") == "");
  CHECK(python::count_split("a  b\nc") == 3);
  CHECK(python::count_split(" a ") == 3);
  CHECK(python::count_split("") == 1);
  CHECK(python::count_split("\u00a0") == 2);
  CHECK(python::words(" a\u2028b  c ") == std::vector<std::string_view>{"a", "b", "c"});
  CHECK(python::words("").empty());
  int spaces = 0;
  for (int32_t c = 0; c < 0x110000; ++c) spaces += python::is_space(c);
  CHECK(spaces == 29);
}

TEST_CASE("capitalize: the first in title case, all the rest in lower case") {
  CHECK(python::capitalize("the MAN") == "The man");
  CHECK(python::capitalize("") == "");
  CHECK(python::capitalize("1ST") == "1st");
  CHECK(python::capitalize("éCOLE") == "École");
  CHECK(python::capitalize("ßA") == "Ssa");
  CHECK(python::capitalize("ǆUNGLA") == "ǅungla");  // title case, not upper case
  CHECK(python::capitalize("ﬁN") == "Fin");
  CHECK(python::capitalize("\u03b0\u0391") == "\u03a5\u0308\u0301\u03b1");
  CHECK(python::capitalize("aİ") == "Ai\u0307");
  CHECK(python::capitalize("\xffGO") == "\xffgo");
}

TEST_CASE("lower: a capital sigma at a word's end is the final one") {
  CHECK(python::lower("ΟΔΟΣ ΣΑΣ Σ") == "οδος σας σ");
  CHECK(python::lower("ΑΣ.Α ΑΣ.") == "ασ.α ας.");  // a point inside a word is ignored
  CHECK(python::lower("ÀÉ STRASSE") == "àé strasse");
}

TEST_CASE("replace goes left to right without overlap") {
  CHECK(python::replace("a    b   c", "  ", " ") == "a  b  c");
  CHECK(python::replace("aaa", "aa", "b") == "ba");
  CHECK(python::replace("abc", "x", "y") == "abc");
}

TEST_CASE("repr: as Python shows a list of texts") {
  CHECK(python::repr(std::vector<std::string>{}) == "[]");
  CHECK(python::repr({"a", "it's", "\"b\"", "\"it's\"", "c\\d\n\te", "\u00e9"}) == "['a', \"it's\", '\"b\"', '\"it\\'s\"', 'c\\\\d\\n\\te', '\u00e9']");
}
