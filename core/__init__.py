"""What every room stands on: frames, sizes, files, errors. Imports nothing heavier than NumPy."""
