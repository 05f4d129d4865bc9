from editcaption_mega.cli import run
from editcaption_mega.commands.duplicates import main

if __name__ == "__main__":
    run(main)
