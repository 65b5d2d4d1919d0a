// Pre-tokenizer: three patterns by hand, the others by PCRE2, and what becomes of matches and gaps.
#include "data/pretokenizer.h"

#include "tensor/error.h"

namespace taper {

const std::string_view gpt2_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const std::string_view llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string_view qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

// A place in a text, and what stands there.
class Scanner {
 public:
  Scanner(const char* end, const CharClass* classes) : end_(end), classes_(classes) {}

  // The class at p, which lies before the end; p moves behind it.
  CharClass take(const char*& p) const {
    const uint8_t a = uint8_t(*p);
    if (a < 0x80) {
      ++p;
      return classes_[a];
    }
    return classes_[read_utf8(p)];
  }

  bool is(const char* p, CharClass kind) const { return p < end_ && take(p) == kind; }

  // Behind the run of one class that begins at p.
  const char* run(const char* p, CharClass kind) const {
    while (p < end_) {
      const char* next = p;
      if (take(next) != kind) break;
      p = next;
    }
    return p;
  }

  // Behind 's 't 're 've 'm 'll 'd at p, which points to the apostrophe; p where there is none. Ignoring case,
  // an s may also be U+017F.
  const char* contraction(const char* p, bool ignore_case) const {
    const size_t left = size_t(end_ - p);
    const auto letter = [&](size_t i) { return i >= left ? '\0' : ignore_case && p[i] >= 'A' && p[i] <= 'Z' ? char(p[i] + 32) : p[i]; };
    const char a = letter(1), b = letter(2);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return p + 3;
    if (ignore_case && a == '\xc5' && p[2] == '\xbf') return p + 3;
    return p;
  }

  // White space from p on that no other alternative takes: all of it at the text's end, else all but its last.
  const char* space(const char* p) const {
    const char *last = p, *q = p;
    while (q < end_) {
      const char* next = q;
      if (take(next) != CharClass::space) return last == p ? q : last;
      last = q;
      q = next;
    }
    return q;
  }

  const char* gpt2(const char* p) const {
    const char* q = p;
    CharClass kind = take(q);
    if (*p == '\'') {
      const char* end = contraction(p, false);
      if (end != p) return end;
    }
    if (*p == ' ' && q < end_) {
      const char* next = q;
      const CharClass after = take(next);
      if (after == CharClass::space) return space(p);
      kind = after;
      q = next;
    }
    return kind == CharClass::space ? space(p) : run(q, kind);
  }

  const char* llama3(const char* p, int digits) const {
    const char* q = p;
    const CharClass kind = take(q);
    if (kind == CharClass::letter) return run(q, kind);
    if (*p == '\'') {
      const char* end = contraction(p, true);
      if (end != p) return end;
    }
    if (kind == CharClass::number) {
      for (int i = 1; i < digits && is(q, kind); ++i) take(q);
      return q;
    }
    const bool newline = *p == '\r' || *p == '\n';
    if (!newline && is(q, CharClass::letter)) return run(q, CharClass::letter);
    const char* mark = *p == ' ' && is(q, CharClass::other) ? q : kind == CharClass::other ? p : nullptr;
    if (mark) {
      q = run(mark, CharClass::other);
      while (q < end_ && (*q == '\r' || *q == '\n')) ++q;
      return q;
    }
    const char *end = run(p, CharClass::space), *last = end;
    while (last > p && last[-1] != '\r' && last[-1] != '\n') --last;
    if (last > p) return last;
    return space(p);
  }

 private:
  const char* end_;
  const CharClass* classes_;
};

}  // namespace

SplitStep SplitStep::pattern(std::string_view pattern, const std::string& who, SplitBehavior behavior, bool invert, bool by_hand) {
  SplitStep s(!by_hand || invert          ? Kind::regex
              : pattern == gpt2_pattern   ? Kind::gpt2
              : pattern == llama3_pattern ? Kind::llama3
              : pattern == qwen2_pattern  ? Kind::qwen2
                                          : Kind::regex,
              behavior, invert);
  if (s.kind_ == Kind::regex) s.regex_ = std::make_shared<Regex>(pattern, who);
  return s;
}

SplitStep SplitStep::literal(std::string_view text, SplitBehavior behavior, bool invert) {
  SplitStep s(Kind::literal, behavior, invert);
  s.literal_ = text;
  return s;
}

SplitStep SplitStep::digits(bool individual) {
  return SplitStep(Kind::digits, individual ? SplitBehavior::isolated : SplitBehavior::contiguous);
}

const char* SplitStep::piece_end(const char* p, const char* end) const {
  const Scanner scanner(end, classes_);
  return kind_ == Kind::gpt2 ? scanner.gpt2(p) : scanner.llama3(p, kind_ == Kind::llama3 ? 3 : 1);
}

size_t SplitStep::cut(std::string_view text) const {
  const auto letter = [&](size_t i) { return (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= 'A' && text[i] <= 'Z'); };
  std::vector<size_t> places;  // where pieces begin or end
  const RegexMatcher whole(*regex_, text);
  size_t cut = 0, count = 0;   // the place, and how many there are up to it
  for (size_t from = 0, begin, end; from < text.size() && whole.next_certain(from, begin, end); from = end)
    for (const size_t place : {begin, end}) {
      if (place == 0 || (!places.empty() && place == places.back())) continue;
      places.push_back(place);
      if (place + 1 < text.size() && text[place] == ' ' && letter(place - 1) && letter(place + 1)) cut = place, count = places.size();
    }
  if (cut == 0) return 0;
  // The front by itself: what looked ahead beyond the cut would find an end there.
  const RegexMatcher front(*regex_, text.substr(0, cut));
  size_t seen = 0, from = 0;
  for (size_t begin, end; from < cut && front.next(from, begin, end); from = end)
    for (const size_t place : {begin, end}) {
      if (place == 0 || (seen > 0 && place == places[seen - 1])) continue;
      if (seen == count || place != places[seen++]) return 0;
    }
  return seen == count || (seen + 1 == count && from < cut) ? cut : 0;  // the last place may be a gap's end
}

bool SplitStep::next(std::string_view text, size_t from, size_t& begin, size_t& end) const {
  if (from == text.size()) return false;
  const char *base = text.data(), *stop = base + text.size();
  switch (kind_) {
    case Kind::regex: return RegexMatcher(*regex_, text).next(from, begin, end);
    case Kind::literal:
      begin = text.find(literal_, from);
      end = begin + literal_.size();
      return begin != text.npos;
    case Kind::digits:
      for (const char* p = base + from; p < stop;) {
        const char* at = p;
        if (classes_[read_utf8(p)] != CharClass::number) continue;
        begin = size_t(at - base);
        end = size_t(p - base);
        return true;
      }
      return false;
    default:
      begin = from;
      end = size_t(piece_end(base + from, stop) - base);
      return true;
  }
}

void SplitStep::split(std::string_view text, const Sink& piece) const {
  if (by_hand()) {
    const char *p = text.data(), *stop = p + text.size();
    while (p < stop) {
      const char* end = piece_end(p, stop);
      piece({p, size_t(end - p)});
      p = end;
    }
    return;
  }
  // Parts in turn, gaps and matches; `open` is the piece that later parts may still join.
  size_t open_begin = 0, open_end = 0;
  bool before = false;  // was the part before a match?
  bool open_is_match = false;
  const auto flush = [&] {
    if (open_end > open_begin) piece(text.substr(open_begin, open_end - open_begin));
    open_begin = open_end;
  };
  const auto part = [&](size_t begin, size_t end, bool match) {
    if (begin == end) return;
    match = match != invert_;
    bool joins = false;
    switch (behavior_) {
      case SplitBehavior::isolated: break;
      case SplitBehavior::removed:
        if (match) {
          flush();
          open_begin = open_end = end;
          return;
        }
        break;
      case SplitBehavior::contiguous: joins = match == before; break;
      case SplitBehavior::merged_with_previous: joins = match && !before; break;
      case SplitBehavior::merged_with_next: joins = !match && open_is_match; break;
    }
    if (!joins) {
      flush();
      open_begin = begin;
    }
    open_end = end;
    open_is_match = match;
    before = match;
  };
  size_t from = 0, begin = 0, end = 0;
  while (next(text, from, begin, end)) {
    part(from, begin, false);
    part(begin, end, true);
    from = end;
  }
  part(from, text.size(), false);
  flush();
}

}  // namespace taper
