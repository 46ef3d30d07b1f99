"""What the workers that Terascope writes have in common: the HTTP shell, texts, figures. Nothing here computes."""
