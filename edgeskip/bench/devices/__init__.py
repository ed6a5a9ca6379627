"""Where a benchmark runs: this machine, browsers, machines over ssh, phones over adb."""
