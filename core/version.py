"""The one place that knows the version of the installed package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sdps")
except PackageNotFoundError:  # a source tree on PYTHONPATH, never installed
    __version__ = "0.0.0+uninstalled"
