"""What every room stands on: errors, files, threads, command lines, PDF."""
