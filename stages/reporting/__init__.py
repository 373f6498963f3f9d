"""What the report says: results read and checked, numbers as tables, published values, plots. No torch, no network."""
