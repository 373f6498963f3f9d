"""Speed and memory against the floor and against a straightforward implementation. Run by hand, never as tests."""
