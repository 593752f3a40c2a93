"""The page of `hmba app` as a Space of the Hub, whose proxy alone reaches it."""

import os
import tempfile
from pathlib import Path

from hmba_hf.app.limits import PageLimits
from hmba_hf.app.page import launch_page
from hmba_hf.commands.app import open_page


def main() -> None:
    """Show the model that `HMBA_MODEL` names, or the one of the package, to whoever visits the Space."""
    limits = PageLimits()
    with tempfile.TemporaryDirectory() as folder:
        page, clips = open_page(os.environ.get("HMBA_MODEL"), None, Path(folder), limits)
        launch_page(page, clips, "0.0.0.0", 7860, None, limits.max_upload_bytes)
        page.block_thread()


if __name__ == "__main__":
    main()
