// Sections of the report that are drawn; each is empty where no run has what it shows.
#pragma once
#include <string>
#include <vector>

#include "apps/history.h"

namespace taper {

std::string loss_section(const std::vector<History>& runs);
std::string training_section(const std::vector<History>& runs);   // learning rate, norm of the gradient, speed
std::string recall_section(const std::vector<History>& runs);     // MQAR's accuracy
std::string position_section(const std::vector<History>& runs);   // loss by position in the window
std::string spectrum_section(const std::vector<History>& runs);   // time constants, exponents, gaps

bool has_times(const std::vector<History>& runs);

// What the sections share.
constexpr size_t few_runs = 6;                // so many have room for faint curves and open spectra
std::string details(const std::string& summary, const std::string& table);
std::string key_of(size_t run);               // the run's stroke, beside its name
double final_loss(const History& run);        // of training: the mean over the last logged steps; NaN: none
double median_speed(const History& run);      // tokens per second; NaN: none

}  // namespace taper
