"""What is loaded: vectors and probes, each a folder with a manifest and safetensors weights."""
