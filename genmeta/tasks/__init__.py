"""How tasks are drawn (plans) and rendered (batches)."""
