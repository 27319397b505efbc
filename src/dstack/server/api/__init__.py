"""What people and the CLI call: JSON over HTTP (docs/design/interfaces.md)."""
