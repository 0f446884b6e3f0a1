"""The scheduler's side of the engine: request states, rules over scores, what leaves."""
