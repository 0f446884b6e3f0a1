"""Files of other libraries become artefacts of ours. For offline use."""
