"""How the bundled model is made: generated dialogues, a tokenizer, a training program. Nothing here is part of the service."""
