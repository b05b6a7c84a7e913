"""What a person sees of a running command, and the signals that stop it. Imports no torch."""
