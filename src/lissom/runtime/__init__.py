"""The one door through which any artifact is executed, and what this machine can execute."""
