"""OpenAI's Responses dialect: a view of the same conversations and events as every other dialect."""
