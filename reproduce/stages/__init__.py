"""The stages of a run: each one function `run(recipe, run_dir)` that reads the folder before it and writes its own."""
