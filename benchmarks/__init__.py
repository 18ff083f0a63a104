"""Measurements of speed and size that the project answers for, each a function of one module; `softfocus bench`."""
