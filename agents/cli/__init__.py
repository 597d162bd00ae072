"""The command line ``worldmodel``; start reading at `cli.main`."""
