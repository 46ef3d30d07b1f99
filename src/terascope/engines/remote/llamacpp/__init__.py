"""llama.cpp's own server: what it would answer wrongly is asked otherwise, or refused."""
