"""Small samples with their licences beside them (LICENSES.md)."""
