from editcaption_mega.cli import run
from editcaption_mega.commands.browse import main

if __name__ == "__main__":
    run(main)
