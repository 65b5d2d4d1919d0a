// Options that several commands share.
#include <CLI/CLI.hpp>

#include "apps/commands.h"

namespace taper {

void config_options(CLI::App& app, ConfigSource& source, bool required) {
  app.add_option("CONFIG", source.path, "The configuration (TOML)")->required(required);
  app.add_option("--set", source.set, "section.key=value, over the file; may be repeated")->allow_extra_args(false);
}

}  // namespace taper
