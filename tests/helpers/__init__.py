"""What several tests share: small models and data, scripted servers, and processes that tests start."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
