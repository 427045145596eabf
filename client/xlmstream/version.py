"""Which release this is: client, gateway and worker are one package and say so from here; its build reads it too."""

__version__ = "0.1.0"
