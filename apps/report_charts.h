// Sections of the report that are drawn; each is empty where no run has what it shows.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "apps/history.h"
#include "apps/plot.h"

namespace taper {

std::string loss_section(const std::vector<History>& runs);
std::string training_section(const std::vector<History>& runs);   // learning rate, norm of the gradient, speed
std::string recall_section(const std::vector<History>& runs);     // MQAR's accuracy
std::string position_section(const std::vector<History>& runs);   // loss by position, in the window and beyond, and by limited context
std::string answers_section(const std::vector<History>& runs);    // RULER's scores, and MQAR's, by the text's length
std::string spectrum_section(const std::vector<History>& runs);   // time constants, exponents, gaps

bool has_times(const std::vector<History>& runs);

// What the sections share.
constexpr size_t few_runs = 6;                // so many have room for faint curves and open spectra
std::string section(const char* id, const char* heading, const std::string& content);
std::string details(const std::string& summary, const std::string& table);
std::string table_text(const std::string& head, const std::string& body);  // of rows
std::string key_of(size_t run);               // the run's stroke, beside its name
double final_loss(const History& run);        // of training: the mean over the last logged steps; NaN: none
double median_speed(const History& run);      // tokens per second; NaN: none

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void add(double y) {
    if (std::isfinite(y)) low = std::min(low, y), high = std::max(high, y);
  }
  void add(const plot::Points& points) {
    for (const plot::Point& p : points) add(p.y);
  }
  bool empty() const { return !(low <= high); }
};

}  // namespace taper
