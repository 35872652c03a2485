"""The worker process: files are read in a process that can be ended, with limits on time and memory."""
