"""The endpoints that are governed: one file each, listed in `policy/endpoint_names.py`."""
