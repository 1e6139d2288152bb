"""Rain, photographs and the loop that makes weights."""
