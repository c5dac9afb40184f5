"""The command line of `streams`: one module for each command, which `streams.cli.main` lists."""
