"""An evaluation from its settings, step by step.

    OUTPUT/config.yaml                                  the settings, resolved
    OUTPUT/instructions/MODEL/BENCHMARK.jsonl           Instruction records; BENCHMARK.json, what they were made with
    OUTPUT/judgements/JUDGE/MODEL/BENCHMARK.jsonl       Judgement records
    OUTPUT/executions/MODEL/BENCHMARK.jsonl             Execution records, and the editor's pictures beside them
    OUTPUT/cache/                                       every reply of every model endpoint, and every call
    OUTPUT/report/                                      report.html, tables.{md,csv,tex}, numbers.json

Each step takes what the one before left there; killed at any point, the same command goes on. Of each step there are
two functions: one has it done (`generate_all`), the other reads what was done (`written_instructions`)."""
