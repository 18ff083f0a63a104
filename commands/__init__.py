"""The commands of `softfocus`, by stage; `cli.py` is the group that holds them."""
