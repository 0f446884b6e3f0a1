"""What stands behind `pilothouse.LLM`: batches governed without a server, and captures."""
