"""The engine of paddle-suite: one trainer for every recipe. Import the parts you need; importing this imports none."""

__version__ = "0.1.0"
