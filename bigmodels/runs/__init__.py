"""Run directories, checkpoints, and checks of files from elsewhere."""
