"""From shards to what one optimizer step computes: shard -> sample -> sequence -> batch -> step.

    shard      `ShardReader`: one record and two pictures of each pair, each read alone by its byte offset
      |        `PairDataset.sample(i)` reads the record; `ImageRef`s stand for the pictures
    sample     `EncodedSample`: token ids of the prompt and its answers
      |        `PairDataset.measure`, once, before work: the token counts of all samples, 12 bytes each
      |        `Packer.plan`: the samples of a step, which `SampleOrder` names, divided by their counts; nothing is read
    sequence   samples one after the other; all sequences of a step are equally long, and each rank has its share
      |        `SequenceReader.read`: reads the samples of one sequence; `Packer.collate`: ids, positions, patches
    batch      `PackedBatch`: one micro-batch as the model takes it, built once on the host
      |        `StepStream.steps`: threads read ahead
    step       `Step`: the micro-batches of this rank for one optimizer step

Each arrow is a pure function of what is above it and of the step's number, so a run resumes at any step, on any number
of ranks.
"""
