from editcaption_mega.cli import run_job
from editcaption_mega.commands.log_probs import main

if __name__ == "__main__":
    run_job(main)
