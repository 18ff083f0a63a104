"""Run folders: what a run leaves, and many of them listed, compared and made."""
