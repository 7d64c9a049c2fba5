"""Speed of the native engine on one accelerator: one script a question, all of them in process with random weights."""
