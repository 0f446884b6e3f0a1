"""The check: given texts and conversations are scored under the policies, and nothing generated."""
