"""Stage 1: photographs and a teacher in, a store of soft labels out."""
