"""Steps of training in torch and in embdb, in turns; see README.md."""

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time

STEPS = 4
BATCH = 32
TOKENS = 128


def torch_steps(model_folder, pairs_file, threads, seed):
    """Times of some steps as (clock, processor), the first left out, and the most memory in MB."""
    import torch
    from sentence_transformers import SentenceTransformer, losses

    torch.set_num_threads(threads)
    model = SentenceTransformer(model_folder, device="cpu")
    model.max_seq_length = TOKENS
    model.train()
    dim = model.get_sentence_embedding_dimension()
    ladder = [d for d in (dim, 256, 128, 64) if d <= dim]
    loss = losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), sorted(set(ladder), reverse=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)
    with open(pairs_file, encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    random.Random(seed).shuffle(pairs)
    times = []
    for step in range(STEPS + 1):
        batch = pairs[step * BATCH : (step + 1) * BATCH]
        clock, processor = time.perf_counter(), time.process_time()
        features = [model.tokenize([pair[key] for pair in batch]) for key in ("query", "positive")]
        optimizer.zero_grad()
        loss(features, None).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        times.append((time.perf_counter() - clock, time.process_time() - processor))
    return times[1:], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def embdb_steps(bench, model, pairs, threads):
    """The means of some steps as the benchmark prints them."""
    environment = dict(
        os.environ,
        EMBDB_BENCH_MODEL=model,
        EMBDB_BENCH_PAIRS=pairs,
        EMBDB_BENCH_THREADS=str(threads),
        EMBDB_BENCH_STEPS=str(STEPS),
        EMBDB_BENCH_BATCH=str(BATCH),
        EMBDB_BENCH_TOKENS=str(TOKENS),
    )
    printed = subprocess.run([bench], env=environment, check=True, capture_output=True, text=True).stdout
    _, _, wall, processor, _, peak = printed.splitlines()[-1].split()
    return (float(wall), float(processor)), float(peak)


def main():
    if sys.argv[1] == "torch":
        _, _, model, pairs, threads, seed = sys.argv
        print(json.dumps(torch_steps(model, pairs, int(threads), int(seed))))
        return
    model, pairs, bench, threads, rounds = sys.argv[1:6]
    ours, theirs, peaks = [], [], {"embdb": 0.0, "torch": 0.0}
    for seed in range(int(rounds)):
        command = [sys.executable, __file__, "torch", model, pairs, threads, str(seed)]
        environment = dict(os.environ, OMP_NUM_THREADS=threads, TOKENIZERS_PARALLELISM="false")
        steps, peak = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
        theirs += steps
        peaks["torch"] = max(peaks["torch"], peak)
        step, peak = embdb_steps(bench, model, pairs, threads)
        ours.append(step)
        peaks["embdb"] = max(peaks["embdb"], peak)
    print(f"{'':>6} {'s/step':>8} {'CPU s':>8} {'peak MB':>8}   {threads} thread(s), {BATCH} pairs, {TOKENS} tokens at most")
    medians = {}
    for name, steps in (("torch", theirs), ("embdb", ours)):
        medians[name] = [statistics.median(step[i] for step in steps) for i in range(2)]
        wall, processor = medians[name]
        print(f"{name:>6} {wall:8.3f} {processor:8.3f} {peaks[name]:8.0f}")
    ratio = [medians["torch"][i] / medians["embdb"][i] for i in range(2)]
    print(f"embdb makes {ratio[0]:.2f} × the steps of torch by the clock, {ratio[1]:.2f} × by the processor")


if __name__ == "__main__":
    main()
