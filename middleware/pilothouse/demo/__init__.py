"""The real model of the demo: what it is made of, and what its figures are measured on."""
