"""Stage 2: photographs, blur masks and stored soft labels in, a student out."""
