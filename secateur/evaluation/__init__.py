"""What a pruned model is still worth: perplexity of a text, zero-shot accuracy."""
