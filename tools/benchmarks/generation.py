"""Tokens a second in decoding: ours against KerasHub's cached samplers and PyTorch's LSTM.

The Transformer is KerasHub's GPT-2 of 4 layers, width 256, 4 heads, vocabulary 8000; the LSTM has
512 units. Prompts have 8 tokens; a call draws `length` more at temperature 1, or searches with four
beams.
"""

import numpy as np
import race

from bigmodels.models import RNN, Transformer

LAYERS, WIDTH, HEADS, VOCABULARY, PROMPT = 4, 256, 4, 8000, 8


def prompts(batch):
    return np.random.default_rng(0).integers(2, VOCABULARY, (batch, PROMPT)).astype("int32")


def transformer(batch, length, **options):
    model = Transformer(
        VOCABULARY, WIDTH, HEADS, 4 * WIDTH, 0.0, num_layers=LAYERS, max_length=PROMPT + length
    )
    return lambda: model.generate(prompts(batch), length=length, seed=1, **options)


def keras_hub(batch, length, num_beams=None):
    hub = race.optional("keras_hub")
    if hub is None:
        return {}
    backbone = hub.models.GPT2Backbone(
        VOCABULARY,
        LAYERS,
        HEADS,
        WIDTH,
        4 * WIDTH,
        dropout=0.0,
        max_sequence_length=PROMPT + length,
    )
    model = hub.models.GPT2CausalLM(backbone, preprocessor=None)
    samplers = hub.samplers
    model.compile(
        sampler=samplers.BeamSampler(num_beams) if num_beams else samplers.RandomSampler(seed=1)
    )
    tokens = np.pad(prompts(batch), [(0, 0), (0, length)])
    given = {"token_ids": tokens, "padding_mask": tokens > 0}
    return {"KerasHub": lambda: model.generate(given, stop_token_ids=None)}


def lstm(batch, length):
    model = RNN(VOCABULARY, WIDTH, 512)
    return lambda: model.generate(prompts(batch), length=length, seed=1)


def torch_lstm(batch, length):
    torch = race.optional("torch")
    if torch is None:
        return {}
    embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
    network = torch.nn.LSTM(WIDTH, 512, batch_first=True)
    dense = torch.nn.Linear(512, VOCABULARY)

    def generate():
        with torch.inference_mode():
            output, state = network(embedding(torch.tensor(prompts(batch)).long()))
            logits = dense(output[:, -1])
            found = []
            for _ in range(length):
                found.append(torch.multinomial(torch.softmax(logits, -1), 1))
                output, state = network(embedding(found[-1]), state)
                logits = dense(output[:, -1])
            return torch.cat(found, 1).numpy()

    return {"PyTorch": generate}


def main():
    """Race, print, write."""
    given = race.arguments(__doc__)
    table = race.Table(given)
    # Products of one token with every weight but the embedding's; attention comes on top.
    flops = 2 * (12 * LAYERS * WIDTH**2 + WIDTH * VOCABULARY)
    for batch, length in ((1, 256), (16, 256), (1, 1024), (16, 1024)):
        name = f"Transformer, batch {batch}, {length} tokens"
        if table.wants(name):
            contestants = {"ours": transformer(batch, length)} | keras_hub(batch, length)
            run(table, name, contestants, batch * length, batch * length * flops)
    for batch in (1, 16):
        name = f"Transformer, 4 beams, batch {batch}, 128 tokens"
        if table.wants(name):
            contestants = {"ours": transformer(batch, 128, num_beams=4)} | keras_hub(batch, 128, 4)
            run(table, name, contestants, batch * 128, 4 * batch * 128 * flops)
    for batch in (1, 16):
        name = f"LSTM 512, batch {batch}, 256 tokens"
        if table.wants(name):
            contestants = {"ours": lstm(batch, 256)} | torch_lstm(batch, 256)
            each = 2 * (4 * 512 * (WIDTH + 512) + 512 * VOCABULARY)
            run(table, name, contestants, batch * 256, batch * 256 * each)
    table.finish()


def run(table, name, contestants, tokens, flops):
    for contestant in contestants.values():
        contestant()
    table.add(name, contestants, tokens, "tokens", flops)


if __name__ == "__main__":
    main()
