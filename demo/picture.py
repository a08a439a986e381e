"""`make picture`: what the demo prints, as docs/demo.svg."""

import io
import re
import subprocess
import sys

from rich.console import Console
from rich.text import Text

from .render import REPOSITORY

TARGET = REPOSITORY / "docs" / "demo.svg"
WIDTH = 110  # columns
STYLES = {
    r"^\s+ms .*$": "bright_black",
    r"^ +\d+\.\d": "bright_black",
    r"\bws:\w+|\bmain\b": "cyan",
    r"\b(ALERT|REPLY)\b.*": "bold green",
    r"\bfires\b": "yellow",
}


def main() -> None:
    """Run the demo and draw what it says."""
    ran = subprocess.run(
        [sys.executable, "-m", "demo"], check=True, capture_output=True, text=True, cwd=REPOSITORY
    )
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ make demo", "bold"))
    for line in ran.stdout.rstrip().splitlines():
        text = Text(line, no_wrap=True, overflow="ellipsis")
        for pattern, style in STYLES.items():
            text.highlight_regex(re.compile(pattern), style)
        console.print(text)
    console.save_svg(str(TARGET), title="Reflex")
    print(f"Drew {TARGET.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
