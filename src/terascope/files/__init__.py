"""Files: uploads and results by reference, owned by projects; their content in a directory or any fsspec URL."""
