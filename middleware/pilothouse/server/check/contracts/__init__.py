"""The shapes in which a check is asked for and answered, a file for each."""
