"""A handler loaded in this process, its batches run and watched."""
