"""What every room stands on: frames, sizes, files, errors, and what this machine is.

Imports no other room, and of packages what every command has: NumPy, and where they are used Pillow, typer
and rich. What is heavier is imported inside functions, if at all (`console.need`).
"""
