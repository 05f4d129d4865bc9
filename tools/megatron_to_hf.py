from editcaption_mega.cli import run
from editcaption_mega.commands.megatron_to_hf import main

if __name__ == "__main__":
    run(main)
