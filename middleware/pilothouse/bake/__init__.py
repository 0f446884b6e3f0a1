"""Programs written into weights: which can be, where in a model they go, and the files."""
