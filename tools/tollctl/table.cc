#include "tools/tollctl/table.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "libs/base/strings.h"

namespace tollhouse::tollctl {
namespace {

constexpr uint64_t kNanosPerDollar = 1'000'000'000;

// Columns a terminal needs for UTF-8 text: one per code point.
size_t Width(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

uint64_t PowerOfTen(int exponent) {
  uint64_t power = 1;
  while (exponent-- > 0) power *= 10;
  return power;
}

std::string WithSeparators(uint64_t number) {
  std::string digits = absl::StrCat(number);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(at, 1, ',');
  return digits;
}

uint64_t Magnitude(int64_t number) {
  return number < 0 ? 0 - static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
}

// Decimals that a column of money needs: 2 for whole cents, 4 for most, 6 where 4 hide an amount.
int DecimalsFor(const std::vector<int64_t>& amounts) {
  int decimals = 2;
  for (const int64_t amount : amounts) {
    const uint64_t magnitude = Magnitude(amount);
    if (magnitude % (kNanosPerDollar / 100) == 0) continue;
    decimals = std::max(decimals, magnitude < kNanosPerDollar / 100 ? 6 : 4);
  }
  return decimals;
}

std::string FixedMoney(int64_t nanousd, int decimals) {
  const uint64_t unit = PowerOfTen(9 - decimals);
  const uint64_t magnitude = Magnitude(nanousd);
  const uint64_t rounded = magnitude / unit + (magnitude % unit >= (unit + 1) / 2 ? 1 : 0);
  if (rounded == 0 && magnitude != 0) {
    return absl::StrCat(nanousd < 0 ? "-" : "", "<$0.", std::string(decimals - 1, '0'), "1");
  }
  const uint64_t scale = PowerOfTen(decimals);
  return absl::StrFormat("%s$%s.%0*d", nanousd < 0 ? "-" : "", WithSeparators(rounded / scale),
                         decimals, rounded % scale);
}

std::string ExactMoney(int64_t nanousd) {
  int decimals = 9;
  while (decimals > 2 && Magnitude(nanousd) % PowerOfTen(10 - decimals) == 0) --decimals;
  return FixedMoney(nanousd, decimals);
}

bool IsEmpty(const Value& value) {
  return value.is_null() || (value.number() == 0 && value.text().empty() && value.items().empty() &&
                             value.fields().empty());
}

// `exact`: all decimals of each amount, for values that do not stand below each other.
std::vector<std::string> Cells(const Column& column, const std::vector<Value>& rows,
                               const Value& total, bool exact = false) {
  std::vector<const Value*> all;
  for (const Value& row : rows) all.push_back(&row);
  if (!total.is_null()) all.push_back(&total);
  std::vector<int64_t> amounts;
  if (column.kind == Column::Kind::kMoney) {
    for (const Value* row : all) amounts.push_back(row->At(column.path).number());
  }
  const int decimals = DecimalsFor(amounts);
  std::vector<std::string> cells;
  for (const Value* row : all) {
    const Value& value = row->At(column.path);
    if (column.cell) {
      cells.push_back(column.cell(*row));
    } else if (value.is_null()) {
      cells.emplace_back();
    } else if (column.kind == Column::Kind::kMoney) {
      cells.push_back(exact ? ExactMoney(value.number()) : FixedMoney(value.number(), decimals));
    } else if (column.kind == Column::Kind::kCount) {
      cells.push_back(CountText(value.number()));
    } else if (value.kind() == Value::Kind::kList) {
      std::string text = PlainText(value);
      std::replace(text.begin(), text.end(), ';', ',');
      cells.push_back(std::move(text));
    } else {
      cells.push_back(PlainText(value));
    }
  }
  return cells;
}

bool Hidden(const Column& column, const std::vector<Value>& rows) {
  if (!column.hide_if_empty) return false;
  return std::all_of(rows.begin(), rows.end(), [&](const Value& row) {
    return column.cell ? column.cell(row).empty() : IsEmpty(row.At(column.path));
  });
}

std::string Padded(const std::string& text, size_t width, bool right) {
  const std::string blanks(width > Width(text) ? width - Width(text) : 0, ' ');
  return right ? blanks + text : text + blanks;
}

// "BASE URL" as it stands before a single value: "Base URL".
std::string DetailTitle(const std::string& title) {
  if (absl::AsciiStrToUpper(title) != title) return title;
  std::string out;
  for (const absl::string_view word : absl::StrSplit(title, ' ')) {
    const bool keep = word == "URL" || word == "ID" || word == "CA";
    std::string shown = keep ? std::string(word) : absl::AsciiStrToLower(word);
    if (out.empty() && !shown.empty()) shown[0] = absl::ascii_toupper(static_cast<unsigned char>(shown[0]));
    absl::StrAppend(&out, out.empty() ? "" : " ", shown);
  }
  return out;
}

std::string Line(const std::vector<std::string>& fields) {
  std::string line;
  for (const std::string& field : fields) absl::StrAppend(&line, line.empty() ? "" : "  ", field);
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace

Column Column::Time(std::string title, std::string path, absl::Time now) {
  Column column = Cell(std::move(title), [path, now](const Value& row) -> std::string {
    const Value& value = row.At(path);
    return value.is_null() ? "" : RelativeTime(TimeOf(value), now);
  });
  column.path = std::move(path);
  return column;
}

std::string RenderTable(const std::vector<Column>& columns, const std::vector<Value>& rows,
                        const Value& total) {
  std::vector<std::vector<std::string>> lines(rows.size() + (total.is_null() ? 1 : 2));
  for (const Column& column : columns) {
    if (Hidden(column, rows)) continue;
    const std::vector<std::string> cells = Cells(column, rows, total);
    size_t width = Width(column.title);
    for (const std::string& cell : cells) width = std::max(width, Width(cell));
    const bool right = column.right || column.kind != Column::Kind::kText;
    lines[0].push_back(Padded(column.title, width, right));
    for (size_t i = 0; i < cells.size(); ++i) {
      lines[i + 1].push_back(Padded(cells[i], width, right));
    }
  }
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string line = Line(lines[i]);
    if (!total.is_null() && i + 1 == lines.size()) {
      size_t width = 0;
      for (const std::string& field : lines[0]) width += Width(field) + 2;
      absl::StrAppend(&out, std::string(std::max<size_t>(width, 2) - 2, '-'), "\n");
    }
    out += line;
  }
  return out;
}

std::string RenderDetails(const std::vector<Column>& columns, const Value& row) {
  size_t width = 0;
  for (const Column& column : columns) {
    if (!Hidden(column, {row})) width = std::max(width, Width(column.title));
  }
  std::string out;
  for (const Column& column : columns) {
    if (Hidden(column, {row})) continue;
    out += Line({Padded(DetailTitle(column.title) + ":", width + 1, false), Cells(column, {row}, Value(), true)[0]});
  }
  return out;
}

std::string MoneyText(int64_t nanousd, int decimals) {
  const bool cents = Magnitude(nanousd) % (kNanosPerDollar / 100) == 0;
  return FixedMoney(nanousd, cents ? 2 : std::clamp(decimals, 2, 9));
}

std::string CountText(int64_t count) {
  return absl::StrCat(count < 0 ? "-" : "", WithSeparators(Magnitude(count)));
}

std::string RelativeTime(absl::Time at, absl::Time now) {
  if (at == absl::InfinitePast() || at == absl::InfiniteFuture()) return "";
  const bool future = at > now;
  const int64_t seconds = absl::ToInt64Seconds(future ? at - now : now - at);
  if (seconds == 0) return "now";
  struct Unit {
    int64_t seconds;
    const char* name;
  };
  static constexpr Unit kUnits[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
  std::string text;
  for (size_t i = 0; i < std::size(kUnits); ++i) {
    const int64_t unit = kUnits[i].seconds;
    if (seconds < unit) continue;
    const bool two = seconds / unit < 10 && i + 1 < std::size(kUnits);
    const int64_t step = two ? kUnits[i + 1].seconds : unit;
    const int64_t rounded = (seconds + step / 2) / step * step;
    text = absl::StrCat(rounded / unit, " ", kUnits[i].name);
    const int64_t smaller = rounded % unit / step;
    if (two && smaller > 0) absl::StrAppend(&text, " ", smaller, " ", kUnits[i + 1].name);
    break;
  }
  return future ? "in " + text : text + " ago";
}

std::string PercentBar(int64_t part, int64_t whole) {
  if (whole <= 0) return "";
  const auto percent = static_cast<int64_t>(static_cast<__int128>(part) * 100 / whole);
  const int64_t full = std::clamp<int64_t>(percent / 10, 0, 10);
  std::string bar;
  for (int64_t i = 0; i < 10; ++i) bar += i < full ? "█" : "░";
  return absl::StrFormat("%s %3d %%", bar, percent);
}

absl::Time TimeOf(const Value& text) {
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, text.text(), &time, &error)) return absl::InfinitePast();
  return time;
}

}  // namespace tollhouse::tollctl
